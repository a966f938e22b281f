"""The rows of a source, each with its place, and the fingerprint of what they were read from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft_cli.config.schema import SourceConfig
from sft_cli.data import hub
from sft_cli.data.locate import Part, Place, is_hub_id, locate
from sft_cli.data.problems import RowError
from sft_cli.data.readers import Record
from sft_cli.data.types import Row
from sft_cli.errors import SftError

Split = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read.

    Attributes:
        where: Its place, as of a ``Row``.
        source: Name of the source in the mix.
        error: What is wrong with it.
    """

    where: str
    source: str
    error: RowError


def has_validation(config: SourceConfig) -> bool:
    """Whether the source brings its own held-out rows."""
    return config.validation_split is not None or config.validation_path is not None


def read(config: SourceConfig, name: str, split: Split) -> Iterator[Row | BadRow]:
    """The rows of a source in file order. Line formats and columnar files stream.

    A broken row comes as ``BadRow``; a problem of a whole file raises ``SftError``.
    """
    place = _place(config, name, split)
    if _on_hub(config, place):
        label, records = hub.rows(config, place.split, place.key)
        yield from _rows(label, records, name)
    else:
        for part in locate(place):
            yield from _rows(part.label, _records(part), name)


def fingerprint(config: SourceConfig, name: str) -> dict[str, Any]:
    """What the rows depend on, by split: the files with BLAKE2b of their bytes, or the hub data set and its commit.

    Files go by their names, wherever they lie and however their path was typed.
    """
    found = {}
    for split in _splits(config):
        place = _place(config, name, split)
        if _on_hub(config, place):
            found[split] = {
                "hub": config.path,
                "name": config.name,
                "split": place.split,
                "revision": hub.pin(config, place.key),
            }
        else:
            files = [[file.name, _digest(file)] for part in locate(place) for file in part.files]
            found[split] = {"files": files}
    return found


def _splits(config: SourceConfig) -> tuple[Split, ...]:
    return ("train", "validation") if has_validation(config) else ("train",)


def _place(config: SourceConfig, name: str, split: Split) -> Place:
    """Where the rows of one side are."""
    key = f"data.mix.{name}"
    if config.path is None:
        fix = f"data.mix.{name}.path=rows.jsonl"
        raise SftError(where=f"{key}.path", problem="no path is given", fix=fix)
    if config.validation_path is not None and config.validation_split is not None:
        raise SftError(
            where=f"{key}.validation_split",
            problem="validation_path is set as well, and only one of them can be read",
            fix="remove one of the two",
        )
    if split == "train":
        return Place(config.path, config.split, named=config.split != "train", key=f"{key}.path")
    if config.validation_split is not None:
        return Place(config.path, config.validation_split, named=True, key=f"{key}.validation_split")
    assert config.validation_path is not None, f"{name} has no held-out rows of its own"
    return Place(config.validation_path, "validation", named=False, key=f"{key}.validation_path")


def _on_hub(config: SourceConfig, place: Place) -> bool:
    """Whether a place is a hub data set; only ``path`` can be one."""
    certain = config.name is not None or config.revision is not None
    hosted = place.given == config.path and is_hub_id(place.given, certain=certain)
    if certain and not hosted and place.given == config.path:
        field = "name" if config.name is not None else "revision"
        raise SftError(
            where=place.key.rpartition(".")[0] + f".{field}",
            problem=f"{place.given!r} is a local path; only hub data sets have a {field}",
            fix=f"remove {field}",
        )
    return hosted


def _records(part: Part) -> Iterator[Record]:
    """The records of a part, numbered through its files."""
    before = 0
    for file in part.files:
        number = 0
        for number, values in part.read(file, part.label):
            yield before + number, values
        before += number


def _rows(label: str, records: Iterator[Record], name: str) -> Iterator[Row | BadRow]:
    """Records under the name of their source; none at all is an error."""
    empty = True
    for number, values in records:
        empty = False
        where = f"{label}:{number}"
        yield BadRow(where, name, values) if isinstance(values, RowError) else Row(values, where, name)
    if empty:
        raise SftError(where=label, problem="it holds no rows", fix="write rows into it or leave it out of the mix")


def _digest(file: Path) -> str:
    """BLAKE2b of the bytes, 32 hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
