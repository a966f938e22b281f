"""The results of a suite on disk: answers as they come, verdicts and scores.

``RUN/eval/<suite>-<digest>/`` holds::

    suite.json      the definition, the data's fingerprint, the model, and the settings that the answers depend on
    answers.jsonl   one line per item and sample, written as the answers come; while several processes answer,
                    answers-N.part.jsonl has those of process N
    verdicts.jsonl  one line per line of answers.jsonl
    scores.json     {metrics, by_tag, counts}
    blame.jsonl     for each failed item the training rows nearest to it (sft eval --blame)

The digest covers all that the answers depend on, so that nothing overwrites answers of other settings; how they are
scored is not part of it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.redaction import redact_values
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.config.validate import to_plain
from sft_cli.errors import SftError
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.rows import shipped_file
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.mappings import nan_to_none
from sft_cli.utils.text import json_or_none

DIGEST_DIGITS = 8
"""Hexadecimal digits of the digest in the name of a directory."""
NOT_IN_DIGEST = ("source", "licence", "items", "path", "file", "hub", "subset", "split", "revision", "answers",
                 "scorers", "options", "reduce", "tags", "cluster", "target", "version", "limit")  # fmt: skip
"""Fields of a definition that no answer depends on; the fingerprint identifies the data."""
UNSET = (("window", None), ("stride", None))
"""Fields that only some suites have: unset, they are no part of the digest."""

Record = Mapping[str, Any]
Place = tuple[str, int]
"""The id of an item, and the number of the sample."""


@dataclass(frozen=True, slots=True)
class SuiteResults:
    """The directory of one suite, model and settings."""

    path: Path

    @property
    def definition(self) -> Path:
        """The definition, the data, the model and the settings."""
        return self.path / "suite.json"

    @property
    def answers(self) -> Path:
        """The answers."""
        return self.path / "answers.jsonl"

    @property
    def verdicts(self) -> Path:
        """The verdicts."""
        return self.path / "verdicts.jsonl"

    @property
    def scores(self) -> Path:
        """The scores."""
        return self.path / "scores.json"

    @property
    def blame(self) -> Path:
        """The training rows nearest to the failed items."""
        return self.path / "blame.jsonl"

    def _parts(self) -> list[Path]:
        """Return the files of answers of single processes."""
        return sorted(self.path.glob("answers-*.part.jsonl"))

    def read_answers(self) -> list[dict[str, Any]]:
        """Return the answers; a last line that an interruption cut is removed from its file.

        Raises:
            SftError: Another line is not JSON.
        """
        return [record for file in (self.answers, *self._parts()) for record in _read_lines(file)]

    def append_answers(self, records: Iterable[Record], process: int = 0) -> None:
        """Append answers of a process, and flush them to the disk; each process has a file of its own."""
        file = self.answers if process == 0 else self.path / f"answers-{process}.part.jsonl"
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(map(json_line, records))
            stream.flush()
            os.fsync(stream.fileno())

    def sort_answers(self, order: Sequence[Place]) -> list[dict[str, Any]]:
        """Write the answers in the order of the items, without those of other items, and return them."""
        by_place = {place_of(record): record for record in self.read_answers()}
        records = [by_place[place] for place in order if place in by_place]
        write_atomic(self.answers, "".join(map(json_line, records)))
        for part in self._parts():
            part.unlink()
        return records

    def read_definition(self) -> dict[str, Any]:
        """Return the content of suite.json.

        Raises:
            SftError: It is missing or damaged.
        """
        try:
            return json.loads(self.definition.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            fix = f"remove {self.path}, and evaluate again"
            raise SftError(where=str(self.definition), problem="the file cannot be read", fix=fix) from error

    def write_scores(self, verdicts: Iterable[Record], scores: Mapping[str, Any]) -> None:
        """Write the verdicts and the scores."""
        write_atomic(self.verdicts, "".join(map(json_line, verdicts)))
        text = json.dumps(nan_to_none(dict(scores)), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomic(self.scores, text + "\n")

    def read_scores(self) -> dict[str, Any]:
        """Return the scores."""
        return json.loads(self.scores.read_text(encoding="utf-8"))


def place_of(record: Record) -> Place:
    """Return the item and the sample of a line."""
    return str(record["id"]), int(record["sample"])


def answer_head(entry: SuiteItem, sample: int, prompt: str) -> dict[str, Any]:
    """Return the part of a line that does not depend on the answer."""
    item = entry.item
    return {
        "id": item.id,
        "sample": sample,
        "cluster": item.cluster,
        "tags": dict(item.tags),
        "prompt": prompt,
    }


def json_line(record: Record) -> str:
    """Return a record as a line; a lone surrogate, which a model may generate, is escaped."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return (line if line.isascii() else line.encode("utf-8", "backslashreplace").decode("utf-8")) + "\n"


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file without a last one that was cut, which is removed from it; none without a file."""
    if not file.is_file():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomic(file, whole)
    return list(_parse_lines(whole, file))


def _parse_lines(content: bytes, file: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            fix = f"remove the line, or {file.parent}, and run the same command again"
            raise SftError(where=f"{file}:{number}", problem="the line is not JSON", fix=fix) from error


def answer_settings(suite: SuiteConfig) -> dict[str, Any]:
    """Return the fields of a definition that the answers depend on."""
    values = to_plain(suite).items()
    return {name: value for name, value in values if name not in NOT_IN_DIGEST and (name, value) not in UNSET}


def with_defaults(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings with the defaults of keys that were added since they were stored."""
    filled = {**defaults, **stored}
    sections = {key: value for key, value in defaults.items() if isinstance(value, dict)}
    inner = {key: with_defaults(filled[key], value) for key, value in sections.items() if isinstance(filled[key], dict)}
    return filled | inner


def _same_results(directory: Path, name: str, identity: Mapping[str, Any]) -> Path | None:
    """Return the directory of earlier results with the same identity, stored before keys of suites were added."""
    defaults = answer_settings(SuiteConfig())
    for file in sorted(directory.glob(f"{name}-*/suite.json")):
        record = json_or_none(file.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("suite") != name:
            continue
        settings = with_defaults(record.get("settings") or {}, defaults)
        if {"settings": settings, "data": record.get("data"), "model": record.get("model")} == identity:
            return file.parent
    return None


def open_results(
    directory: Path, suite: LoadedSuite, model: Mapping[str, Any], settings: Mapping[str, Any]
) -> SuiteResults:
    """Return the results of a suite; ``suite.json`` is written with the present definition of its scores.

    Args:
        directory: The run's directory of evaluations.
        suite: The suite with its items.
        model: Name and digests of the model.
        settings: All settings of generation beyond those of the suite.
    """
    ids = [item.item.id for item in suite.items]
    identity = {
        "settings": {**answer_settings(suite.config), **settings},
        "data": {"fingerprint": suite.fingerprint, "rows": suite.rows, "items": len(ids), "ids": json_digest(ids)},
        "model": dict(model),
    }
    digest = json_digest(identity)
    place = directory / f"{suite.name}-{digest[:DIGEST_DIGITS]}"
    results = SuiteResults(place if place.is_dir() else _same_results(directory, suite.name, identity) or place)
    results.path.mkdir(parents=True, exist_ok=True)
    shipped = shipped_file(suite.config)
    is_found = suite.origin in (suite.config.hub, str(shipped))  # without a path
    record = {
        "suite": suite.name,
        "digest": digest,
        "sft_cli": __version__,
        **identity,
        "definition": redact_values(to_plain(suite.config) | ({} if is_found else {"path": suite.origin})),
        "origin": redact_values(suite.origin),
        "total": suite.total,
    }
    write_atomic(results.definition, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return results
