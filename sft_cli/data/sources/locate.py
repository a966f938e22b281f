"""Locate the files of a source's path, and the labels of their rows."""

import difflib
import glob
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.paths import BUILTIN, resolve
from sft_cli.config.redaction import is_address
from sft_cli.data.row_errors import format_list
from sft_cli.data.sources import remote
from sft_cli.data.sources.lines import File
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions
from sft_cli.data.sources.remote_errors import Unreachable
from sft_cli.data.sources.select import (
    COLUMNAR,
    DOCUMENTS,
    LINES,
    READABLE,
    TABLES,
    SourceLocation,
    file_kind,
    not_text_file,
    refuse_mixed_documents,
    refuse_split,
    select_files,
    split_not_found,
    suffix,
)
from sft_cli.data.sources.sniff import sniff_kind
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files whose rows are numbered consecutively.

    Attributes:
        label: Prefix of every row's ``where``: a file name, or a path relative to the directory or to the common parent
            of the glob's matches. It does not depend on how the path was written.
        files: At least one absolute path, in reading order; several only for the shards of one Arrow data set.
        kind: The suffix that selects their reader.
        options: How they are read.
    """

    label: str
    files: tuple[File, ...]
    kind: str
    options: ReadOptions = DEFAULT_OPTIONS


def locate_files(location: SourceLocation, *, stored: bool = True) -> list[FileGroup]:
    """Return the files of a path, in reading order; remote files are downloaded if ``stored``, else streamed."""
    groups = _resolve_path(location, stored)
    groups = [_as_lines(group, location) for group in groups] if location.lines else groups
    refuse_unused_keys(location, {group.kind for group in groups})
    return groups


def refuse_unused_keys(location: SourceLocation, kinds: set[str] | None) -> None:
    """Refuse reading options that have no effect on files of these kinds (None: a hub data set)."""
    if not location.key.endswith(".path"):
        return  # held-out files may be of another kind than training files
    unused = {
        "delimiter": location.options.delimiter is not None and not (kinds and kinds & set(TABLES)),
        "encoding": location.options.encoding is not None and not (kinds and kinds - set(COLUMNAR)),
    }
    for name, no_effect in unused.items():
        if no_effect:
            files_text = "a hub data set" if kinds is None else f"{' and '.join(sorted(kinds))} files"
            key = f"{location.options.source}.{name}"
            raise SftError(where=key, problem=f"the key has no effect on {files_text}", fix=f"remove {key}")


def _as_lines(group: FileGroup, location: SourceLocation) -> FileGroup:
    """Return a text file as one row per line."""
    if group.kind not in DOCUMENTS:
        raise not_text_file(group.label, location)
    return replace(group, kind=LINES)


def _resolve_path(location: SourceLocation, stored: bool) -> list[FileGroup]:
    """Return the files of a path, each of the kind of its suffix."""
    if is_address(location.given):
        return _remote_files(location, stored)
    path = Path(resolve(location.given))
    if path.is_dir():
        return _directory_files(path, location)
    if path.is_file():
        group = _file_group(path, path.name, location, is_only_file=True)
        if group.kind != ".json":
            refuse_split(location)
        return [group]
    if glob.has_magic(str(path)):
        groups = _glob_files(path, location)
    else:
        raise path_not_found(location)
    refuse_split(location)
    return groups


def is_hub_dataset(given: str, *, certain: bool) -> bool:
    """Return whether a path is a data set of the hub: ``owner/name``, and no local path.

    Below an existing directory it counts as a misspelt local path, unless the user set an option that only hub data
    sets have (``certain``).
    """
    path = Path(resolve(given))
    shaped = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given) is not None and suffix(path) not in READABLE
    return shaped and not path.exists() and (certain or not path.parent.exists())


def path_not_found(location: SourceLocation) -> SftError:
    """Return the error for a path that does not exist, with a suggestion."""
    path = Path(resolve(location.given))
    while not path.parent.exists():
        path = path.parent
    problem = f"{location.given!r} does not exist"
    if path != Path(resolve(location.given)):
        problem += f": there is no directory {str(path)!r}"
    names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
    near = closest_name(path.name, names)
    if near is not None:
        fix = f"did you mean {format_override(location.key, str(path.parent / near))}?"
    elif names and not location.given.startswith(BUILTIN):
        fix = f"{location.key}=FILE; {str(path.parent)!r} holds {format_list(_by_similarity(names, path.name))}"
    else:
        fix = f"{location.key}=FILE, a glob, a directory or the owner/name of a hub data set"
    return SftError(where=location.key, problem=problem, fix=fix)


def _by_similarity(names: Iterable[str], typed: str) -> list[str]:
    """Return the names, those most like the typed one first."""
    return sorted(names, key=lambda name: (-difflib.SequenceMatcher(None, typed, name).ratio(), name))


def _directory_files(path: Path, location: SourceLocation) -> list[FileGroup]:
    """Return the files of a directory: a data set or splits saved by ``datasets``, or a folder of files."""
    name = os.path.basename(os.path.abspath(path))
    if (path / "dataset_dict.json").is_file():
        splits = _read_list(path / "dataset_dict.json", "splits")
        if location.split not in splits or Path(location.split).name != location.split:
            raise split_not_found(splits, location)
        return [_saved_dataset(path / location.split, f"{name}[{location.split}]")]
    if _is_saved(path):
        refuse_split(location)
        return [_saved_dataset(path, name)]
    files = select_files([file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()], location)
    return [_file_group(path / file, file.as_posix(), location) for file in files]


def _remote_files(location: SourceLocation, stored: bool) -> list[FileGroup]:
    """Return the files of an address; offline, a file that was downloaded before."""
    try:
        address_kind, files = remote.find_files(location.given, location.key)
    except Unreachable:
        downloaded = remote.cached_download(location.given) if stored else None
        if downloaded is None:
            raise
        refuse_split(location)
        return [_file_group(downloaded, downloaded.name, location)]
    base = PurePosixPath(os.path.commonpath([PurePosixPath(file.path).parent for file in files])) if files else None
    labels = {PurePosixPath(file.path).relative_to(base): file for file in files} if base else {}
    if address_kind == "directory":
        labels = {label: labels[label] for label in select_files(list(labels), location)}
    else:
        refuse_split(location)
        refuse_mixed_documents(list(labels), location)
    if not labels:
        problem = f"no file matches {remote.display_url(location.given)!r}"
        raise SftError(
            where=location.key, problem=problem, fix=f"{location.key}=URL with files; ** matches nested folders"
        )
    groups = []
    for label, file in labels.items():
        kind = file_kind(label, location)
        local = remote.download(file) if stored else file
        options = replace(location.options, named=False)
        kind = sniff_kind(kind, local, label.as_posix(), options) if isinstance(local, Path) else kind
        groups.append(FileGroup(label.as_posix(), (local,), kind, options))
    return groups


def _glob_files(path: Path, location: SourceLocation) -> list[FileGroup]:
    """Return every match that is a file or a saved data set, sorted."""
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    matches = [match for match in matches if match.is_file() or _is_saved(match)]
    if not matches:
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        names = sorted(os.listdir(base)) if base.is_dir() else []
        fix = f"{location.key}=FILE; {str(base)!r} holds {format_list(names) if names else 'nothing'}"
        raise SftError(where=location.key, problem=f"no file matches {location.given!r}", fix=fix)
    refuse_mixed_documents(matches, location)
    base = Path(os.path.commonpath([match.parent for match in matches]))
    labels = [match.relative_to(base).as_posix() for match in matches]
    pairs = zip(matches, labels, strict=True)
    return [
        _saved_dataset(match, label) if match.is_dir() else _file_group(match, label, location)
        for match, label in pairs
    ]


def _file_group(file: Path, label: str, location: SourceLocation, is_only_file: bool = False) -> FileGroup:
    """Return one file with its kind; only a file that is the whole source (``is_only_file``) may hold a named split."""
    options = location.options if is_only_file else replace(location.options, named=False)
    return FileGroup(label, (file.absolute(),), sniff_kind(file_kind(file, location), file, label, options), options)


def _is_saved(path: Path) -> bool:
    """Return whether a directory is one data set as ``save_to_disk`` writes it."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _saved_dataset(path: Path, label: str) -> FileGroup:
    """Return a data set saved by ``datasets``: its shards in order."""
    names = [
        entry.get("filename") if isinstance(entry, dict) else None
        for entry in _read_list(path / "state.json", "_data_files")
    ]
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise _not_saved(path / "state.json", "its _data_files are not names of files in the same directory")
    return FileGroup(label, tuple(path.absolute() / str(name) for name in names), ".arrow")


def _read_list(file: Path, key: str) -> list[Any]:
    """Return a list in the JSON metadata of ``datasets``."""
    try:
        metadata = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _not_saved(file, "it is not JSON") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get(key), list):
        raise _not_saved(file, f"it has no list {key}")
    return metadata[key]


def _not_saved(file: Path, problem: str) -> SftError:
    """Return the error for invalid metadata of ``datasets``."""
    return SftError(where=str(file), problem=problem, fix="save the data set again with save_to_disk")
