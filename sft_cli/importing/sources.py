"""Names and paths of sources of rows, and the templates of other tools."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sft_cli.data.formats.roles import known_role
from sft_cli.importing.foreign_config import TOOLS
from sft_cli.importing.translation import Translation

SHIPPED = {"alpaca": "alpaca", "chatml": "chatml", "llama2": "llama2", "vicuna": "vicuna", "empty": "plain"}
"""Template of other tools -> the same here."""
_OWN = ("tokenizer_default", "auto", "jinja")
_SLICE = re.compile(r"(\w+)\[:?(\d+)(%?)(:?)\]")


def source_name(path: str, taken: Collection[str]) -> str:
    """Return a name for a source that no other one has, from the last part of its path."""
    last = Path(path.rstrip("/")).name.removesuffix(".gz").rpartition(".")
    base = re.sub(r"[^\w-]+", "_", last[0] or last[2], flags=re.ASCII).strip("_-") or "rows"
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def join_path(path: str, file: str) -> str:
    """Return the path of a file of a data set on the hub, or of a directory."""
    if path in ("json", "csv", "parquet", "text", "arrow") or "://" in file or Path(file).exists():
        return file
    return str(Path(path) / file) if Path(path).is_dir() else f"hf://datasets/{path}/{file}"


def set_split(t: Translation, source: str, split: Any, key: str) -> None:
    """Set the split of a source; ``train[:1000]`` is 1,000 rows of train."""
    text = str(split)
    if found := _SLICE.fullmatch(text):
        name, number, percent, _ = found.groups()
        if name != "train":
            t.set(f"data.mix.{source}.split", name, key)
        if percent or not text.endswith((f"[:{number}]",)):
            t.none(key, why=f"{text}: a part of a split; here data.mix.{source}.max_rows=N, chosen by the seed")
        else:
            why = f"{text}: that many rows, here chosen by the seed"
            t.change(f"data.mix.{source}.max_rows", int(number), key, why=why)
    elif re.fullmatch(r"\w+", text):
        t.set(f"data.mix.{source}.split", text, key)
    else:
        t.none(key, why=f"{text}: only the name of a split is read")


def choose_template(t: Translation, value: Any, key: str, tool: str) -> None:
    """Choose the chat template of the same text; the tokenizer's own one where this package has none.

    Args:
        t: The translation.
        value: The other tool's name of the template.
        key: The key of the config.
        tool: The value of ``--from``.
    """
    name = str(value)
    if name in SHIPPED:
        t.choose("template", SHIPPED[name], key)
    elif name.startswith("tokenizer_default_fallback_"):
        fallback = SHIPPED.get(name.rpartition("_")[2], "chatml")
        why = f"the tokenizer's own; for a tokenizer without one add template={fallback}"
        t.choose("template", "auto", key, why=why)
    elif name in _OWN:
        t.choose("template", "auto", key)
    else:
        own = (
            f"{TOOLS[tool]}'s own template; here the tokenizer's is taken. For a tokenizer without one: template=chatml"
        )
        t.none(key, why=own)


def set_roles(t: Translation, source: str, roles: Mapping[str, str], key: str) -> None:
    """Set the roles of a source whose names are not known without it."""
    unknown = {name: role for name, role in roles.items() if known_role(name) != role}
    if unknown:
        t.set(f"data.mix.{source}.roles", unknown, key)
    else:
        t.same(key, why="these roles are known")
