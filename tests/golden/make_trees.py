"""Makes the golden tree paths: ``python tests/golden/make_trees.py`` from the repository's root.

trees/trees.jsonl        trees of our own in OpenAssistant's nested shape, written by hand
trees/<setting>.txt      their conversations under one setting of ``tree``; with ``material`` in its name, those of the
                         first trees of the real file, where it is next to the repository

A line for each conversation: its place, then the roles' initials with the first words of each message (of the real
file, which is not ours, a digest); ``-`` in front of an answer that carries no loss on this branch. Read the diff
before you commit one.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from sft_cli.config.schema.data import SourceConfig, TreeConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowExcluded
from sft_cli.types import Conversation, Row

HERE = Path(__file__).resolve().parent / "trees"
OWN = HERE / "trees.jsonl"
MATERIAL = HERE.parents[3] / "shared" / "material" / "data" / "oasst" / "en_100_tree.jsonl"
SETTINGS = {
    "best": {},
    "ranked(2)": {"paths": "ranked(2)"},
    "all": {"paths": "all"},
    "all, en": {"paths": "all", "languages": ["en"]},
    "all, unreviewed": {"paths": "all", "reviewed": False},
}
REAL_SETTINGS = ("best", "ranked(2)")
REAL_TREES = 8


def line(conversation: Conversation, show: Callable[[str], str]) -> str:
    """Return one conversation as a line."""
    messages = [
        f"{'-' if message.weight == 0 else ''}{message.role[0]}: {show(message.content)}"
        for message in conversation.messages
    ]
    return f"{conversation.where} [{conversation.group}] " + " | ".join(messages)


def opening(text: str) -> str:
    """The first words of a message."""
    return repr(text[:24])


def digest(text: str) -> str:
    """Eight digits that identify a message."""
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def content(file: Path, setting: str, limit: int | None = None) -> str:
    """The text of a golden file."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines()[:limit], start=1):
        row = Row(json.loads(text), f"{file.name}:{number}", "trees")
        source = SourceConfig(tree=TreeConfig(**SETTINGS[setting]))
        try:
            lines += [
                line(found, opening if file == OWN else digest)
                for found in make_converter(source, "trees", "\n\n", row.values).convert(row)
            ]
        except RowExcluded as error:
            lines.append(f"{error.where} left out: {error.reason}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every golden file."""
    for setting in SETTINGS:
        (HERE / f"{setting}.txt").write_text(content(OWN, setting), encoding="utf-8")
    for setting in REAL_SETTINGS if MATERIAL.is_file() else ():
        (HERE / f"material {setting}.txt").write_text(content(MATERIAL, setting, REAL_TREES), encoding="utf-8")


if __name__ == "__main__":
    main()
