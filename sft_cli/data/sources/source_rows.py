"""Read the rows of a source, each with its location, and fingerprint the files that they come from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_cli.config.redaction import is_address
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import file_state, hub
from sft_cli.data.sources import slices as cutting
from sft_cli.data.sources.locate import FileGroup, is_hub_dataset, locate_files, refuse_unused_keys
from sft_cli.data.sources.read_options import ReadOptions, parse_delimiter
from sft_cli.data.sources.remote import RemoteFile
from sft_cli.data.sources.select import LINES, SourceLocation, display_path, not_text_file
from sft_cli.data.sources.slices import BadRow, Slice, read_slice
from sft_cli.errors import SftError
from sft_cli.types import Row, SplitName

__all__ = [
    "BadRow",
    "Slice",
    "SplitName",
    "has_validation",
    "read_slice",
    "read_source",
    "source_fingerprint",
    "source_slices",
]


def has_validation(config: SourceConfig) -> bool:
    """Return whether the source has its own held-out rows."""
    return config.validation_split is not None or config.validation_path is not None


def source_slices(config: SourceConfig, name: str, split: SplitName) -> list[Slice]:
    """Return the pieces of a source for ``read_slice``; in order they hold the rows of ``read_source``.

    They depend only on the bytes. Files that changed since ``source_fingerprint`` are refused when they are read.
    """
    return _slice_source(config, source_location(config, name, split), refresh=False)


def read_source(config: SourceConfig, name: str, split: SplitName) -> Iterator[Row | BadRow]:
    """Yield the rows of a source in file order, without holding all of them.

    A broken row becomes a ``BadRow``; an error of a whole file raises ``SftError``.
    """
    for piece in _slice_source(config, source_location(config, name, split), refresh=True):
        yield from read_slice(piece, name)


def source_fingerprint(config: SourceConfig, name: str) -> dict[str, Any]:
    """Return the inputs of the rows, by split: the files with their BLAKE2b, or the hub data set and its commit.

    Files are identified by the labels of their rows, whatever their directory and however the path was written.
    Streamed remote files are identified by the server's version of them.
    """
    fingerprints = {}
    for split in source_splits(config):
        location = source_location(config, name, split)
        if is_on_hub(config, location):
            fingerprints[split] = {
                "hub": config.path,
                "name": config.name,
                "split": location.split,
                "revision": hub.pinned_commit(config, location.key),
            }
        else:
            groups = locate_files(location, stored=not config.stream)
            fingerprints[split] = {"files": [entry for group in groups for entry in _file_versions(group)]}
    return fingerprints


def source_splits(config: SourceConfig) -> tuple[SplitName, ...]:
    """Return the splits that the source has rows for."""
    return ("train", "validation") if has_validation(config) else ("train",)


def source_location(config: SourceConfig, name: str, split: SplitName) -> SourceLocation:
    """Return the location of the rows of one split."""
    key = f"data.mix.{name}"
    if config.path is None:
        fix = f"data.mix.{name}.path=rows.jsonl"
        raise SftError(where=f"{key}.path", problem="the source has no path", fix=fix)
    if config.validation_path is not None and config.validation_split is not None:
        raise SftError(
            where=f"{key}.validation_split",
            problem="validation_path is set as well, but only one of them can be read",
            fix=f"remove {key}.validation_path or {key}.validation_split",
        )
    lines = config.format == LINES
    given, split_name, field = config.path, config.split, "split"
    if split == "validation":
        given, split_name, field = config.validation_path or config.path, config.validation_split or "validation", None
        field = "validation_split" if config.validation_split is not None else None
        assert field or config.validation_path is not None, f"{name} has no held-out rows"
    named = config.split != "train" if split == "train" else field is not None
    split_key = None if field is None else f"{key}.{field}"
    options = ReadOptions(key, parse_delimiter(config.delimiter), config.encoding, split_name, named, split_key)
    path_key = {"split": "path", None: "validation_path"}.get(field, field)
    return SourceLocation(given, split_name, named, f"{key}.{path_key}", lines, options)


def is_on_hub(config: SourceConfig, location: SourceLocation) -> bool:
    """Return whether a location is a hub data set; only ``path`` can be one."""
    certain = config.name is not None or config.revision is not None
    hosted = location.given == config.path and is_hub_dataset(location.given, certain=certain)
    if certain and not hosted and location.given == config.path:
        field = "name" if config.name is not None else "revision"
        kind = "an address" if is_address(location.given) else "a local path"
        raise SftError(
            where=location.key.rpartition(".")[0] + f".{field}",
            problem=f"{display_path(location)!r} is {kind}; only hub data sets have a {field}",
            fix=f"remove {location.key.rpartition('.')[0]}.{field}",
        )
    if hosted and location.lines:
        raise not_text_file(location.given, location)
    if hosted:
        refuse_unused_keys(location, None)
    return hosted


def _file_versions(group: FileGroup) -> list[list[str]]:
    """Return label and version of each file: the digest of a local file, the server's version of a streamed one."""
    if all(isinstance(file, RemoteFile) for file in group.files):
        return [[group.label, file.identity or "unversioned"] for file in group.files if isinstance(file, RemoteFile)]
    return cutting.file_digests(group)


def _slice_source(config: SourceConfig, location: SourceLocation, *, refresh: bool) -> list[Slice]:
    """Return the slices of a location; ``refresh`` records the current stamps of its files."""
    if is_on_hub(config, location):
        return cutting.slice_table(*hub.load_table(config, location.split, location.key))
    groups = locate_files(location)
    for file in (file for group in groups for file in group.files if refresh):
        assert isinstance(file, Path)
        file_state.record_stamp(file)
    return cutting.slice_files(groups)
