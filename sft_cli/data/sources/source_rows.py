"""The rows of a source, each with its place, and the fingerprint of what they were read from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sft_cli.config.redaction import is_address
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import file_state, hub
from sft_cli.data.sources import slices as cutting
from sft_cli.data.sources.locate import Part, is_hub_id, locate, refuse_idle
from sft_cli.data.sources.read_options import How, delimiter_of
from sft_cli.data.sources.remote import RemoteFile
from sft_cli.data.sources.select import LINES, Place, no_lines, shown
from sft_cli.data.sources.slices import BadRow, Slice, read_slice
from sft_cli.errors import SftError
from sft_cli.types import Row

__all__ = ["BadRow", "Slice", "Split", "fingerprint", "has_validation", "read", "read_slice", "slices"]

Split = Literal["train", "validation"]


def has_validation(config: SourceConfig) -> bool:
    """Whether the source brings its own held-out rows."""
    return config.validation_split is not None or config.validation_path is not None


def slices(config: SourceConfig, name: str, split: Split) -> list[Slice]:
    """Pieces of a source for ``read_slice`` in any process; in order they hold the rows that ``read`` gives.

    They depend on the bytes alone. Files that changed since ``fingerprint`` was taken are refused when they are read.
    """
    return _cut(config, placed(config, name, split), anew=False)


def read(config: SourceConfig, name: str, split: Split) -> Iterator[Row | BadRow]:
    """The rows of a source in file order. Line formats and columnar files stream.

    A broken row comes as ``BadRow``; a problem of a whole file raises ``SftError``.
    """
    for piece in _cut(config, placed(config, name, split), anew=True):
        yield from read_slice(piece, name)


def fingerprint(config: SourceConfig, name: str) -> dict[str, Any]:
    """What the rows depend on, by split: the files with BLAKE2b of their bytes, or the hub data set and its commit.

    Files go by the names their rows go by, wherever they lie and however their path was typed. Files on a server that
    are streamed, not stored, go by what the server says of their version.
    """
    found = {}
    for split in splits(config):
        place = placed(config, name, split)
        if on_hub(config, place):
            found[split] = {
                "hub": config.path,
                "name": config.name,
                "split": place.split,
                "revision": hub.pin(config, place.key),
            }
        else:
            parts = locate(place, stored=not config.stream)
            found[split] = {"files": [entry for part in parts for entry in _versions(part)]}
    return found


def splits(config: SourceConfig) -> tuple[Split, ...]:
    """The sides the source has rows for."""
    return ("train", "validation") if has_validation(config) else ("train",)


def placed(config: SourceConfig, name: str, split: Split) -> Place:
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
    lines = config.format == LINES
    given, wanted, field = config.path, config.split, "split"
    if split == "validation":
        given, wanted, field = config.validation_path or config.path, config.validation_split or "validation", None
        field = "validation_split" if config.validation_split is not None else None
        assert field or config.validation_path is not None, f"{name} has no held-out rows"
    named = config.split != "train" if split == "train" else field is not None
    split_key = None if field is None else f"{key}.{field}"
    how = How(key, delimiter_of(config.delimiter), config.encoding, wanted, named, split_key)
    of = {"split": "path", None: "validation_path"}.get(field, field)
    return Place(given, wanted, named, f"{key}.{of}", lines, how)


def on_hub(config: SourceConfig, place: Place) -> bool:
    """Whether a place is a hub data set; only ``path`` can be one."""
    certain = config.name is not None or config.revision is not None
    hosted = place.given == config.path and is_hub_id(place.given, certain=certain)
    if certain and not hosted and place.given == config.path:
        field = "name" if config.name is not None else "revision"
        what = "an address" if is_address(place.given) else "a local path"
        raise SftError(
            where=place.key.rpartition(".")[0] + f".{field}",
            problem=f"{shown(place)!r} is {what}; only hub data sets have a {field}",
            fix=f"remove {field}",
        )
    if hosted and place.lines:
        raise no_lines(place.given, place)
    if hosted:
        refuse_idle(place, None)
    return hosted


def _versions(part: Part) -> list[list[str]]:
    """Name and version of each file: the digest of what is here, the server's word for what is streamed."""
    if all(isinstance(file, RemoteFile) for file in part.files):
        return [[part.label, file.identity or "unversioned"] for file in part.files if isinstance(file, RemoteFile)]
    return cutting.digest(part)


def _cut(config: SourceConfig, place: Place, *, anew: bool) -> list[Slice]:
    """The slices of a place. ``anew``: the files may differ from those whose fingerprint was taken."""
    if on_hub(config, place):
        return cutting.of_table(*hub.load(config, place.split, place.key))
    parts = locate(place)
    for file in (file for part in parts for file in part.files if anew):
        assert isinstance(file, Path)
        file_state.look(file)
    return cutting.of_parts(parts)
