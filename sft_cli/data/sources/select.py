"""Which files of a place are read: those of one kind, and of the split that is wanted."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from sft_cli.config.redaction import is_address
from sft_cli.data.row_errors import format_list
from sft_cli.data.sources import columnar, json_documents, remote, text_files
from sft_cli.data.sources.lines import COMPRESSED, WHOLE_FILE, File, FileSpan
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

LINES = "lines"
"""Text files of one document a line: asked for by the format of that name, for their ending does not tell."""

_WHOLE: Mapping[str, text_files.Reader] = {
    ".json": json_documents.read_json,
    ".csv": text_files.read_csv,
    ".tsv": text_files.read_tsv,
    ".txt": text_files.read_document,
    ".md": text_files.read_document,
}
"""Kinds that are read from the beginning."""
_LINES: Mapping[str, Callable[[File, str, FileSpan, ReadOptions], Iterator[text_files.Record]]] = {
    ".jsonl": text_files.read_json_lines,
    ".ndjson": text_files.read_json_lines,
    LINES: text_files.read_text_lines,
}
COLUMNAR: Mapping[str, Callable[[File, str, FileSpan], Iterator[text_files.Record]]] = {
    ".parquet": columnar.read_parquet,
    ".arrow": columnar.read_arrow,
}
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", *COLUMNAR, ".txt", ".md")
READABLE = {*_WHOLE, *_LINES, *COLUMNAR}
"""Every kind there is."""
TABLES = (".csv", ".tsv")
"""Kinds whose fields are separated by a delimiter."""

DOCUMENTS = (".txt", ".md")
"""Each file is one row, unless it is read by lines."""

NOTE_NAMES = ("readme", "license", "licence")
"""How the names of documents begin that are about the data of a directory, and none of its rows."""

TEXT = tuple(kind for kind in ENDINGS if kind not in COLUMNAR)
KINDS = f"{', '.join(ENDINGS)}; all but .parquet and .arrow also with {', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"


def suffix(path: PurePath) -> str:
    """The ending that decides the reader; those of packed files count only on text formats."""
    suffixes = [ending.lower() for ending in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in TEXT else inner + suffixes[-1]
    return suffixes[-1] if suffixes else ""


def read_records(
    kind: str, file: File, label: str, options: ReadOptions, span: FileSpan = WHOLE_FILE
) -> Iterator[text_files.Record]:
    """The records of a file; of a part of it where its kind can be cut."""
    if kind in COLUMNAR:
        return COLUMNAR[kind](file, label, span)
    if kind in _LINES:
        return _LINES[kind](file, label, span, options)
    assert span == WHOLE_FILE, f"a {kind} file is never cut"
    return _WHOLE[kind](file, label, options)


def row_location(kind: str, label: str, number: int) -> str:
    """Where a row is: its line, its number in a columnar file, or its element in a JSON document."""
    return json_documents.element_location(label, number) if kind == ".json" else f"{label}:{number}"


SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")
"""File and folder names that make a directory one of splits; so do shards named <split>-00000-of-00002."""

P = TypeVar("P", bound=PurePath)


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a source says its rows are.

    Attributes:
        given: File, glob, directory, address or ``builtin:…``, as the user wrote it.
        split: The split that is wanted.
        named: Whether the user asked for that split by name, so that a path without splits is a mistake.
        key: The configuration key to name in an error.
        lines: Whether text files hold one document a line, not one each.
        options: How its files are read.
    """

    given: str
    split: str
    named: bool
    key: str
    lines: bool = False
    options: ReadOptions = DEFAULT_OPTIONS


def select_files(files: Sequence[P], location: SourceLocation) -> list[P]:
    """Of all files of a directory, relative to it, those of the one kind and the split that are wanted."""
    files = [file for file in files if suffix(file) in READABLE and not _is_not_data(file)]
    if not files:
        problem = f"{display_path(location)!r} holds no data file"
        raise SftError(where=location.key, problem=problem, fix=f"known endings: {KINDS}")
    _refuse_mixed_kinds(files, location)
    return _of_split(files, location)


def _is_not_data(file: PurePath) -> bool:
    """Whether a file of a directory lies there beside the data: hidden, or about it."""
    note = suffix(file) in DOCUMENTS and file.name.lower().startswith(NOTE_NAMES)
    return note or any(part.startswith(".") for part in file.parts)


def _of_split(files: Sequence[P], location: SourceLocation) -> list[P]:
    """The files of the wanted split; all of them when the directory has no splits."""
    splits = {file: _split_of(file) for file in files}
    found = sorted({split for split in splits.values() if split is not None})
    if not found:
        refuse_split(location)
        return list(files)
    strays = [file for file, split in splits.items() if split is None]
    if strays:
        raise SftError(
            where=location.key,
            problem=f"{display_path(location)!r} has splits {format_list(found)}, and {strays[0].name!r} is in none",
            fix="move that file away, or name the files to read with a glob",
        )
    if location.split not in found:
        raise split_not_found(found, location)
    return [file for file, split in splits.items() if split == location.split]


def _split_of(relative: PurePath) -> str | None:
    """The split a file belongs to by its own name or that of a folder above it."""
    for name in relative.parts:
        shard = re.match(r"(.+)-\d{5}-of-\d{5}\.", name)
        if shard:
            return shard[1]
        if name.split(".")[0] in SPLIT_NAMES:
            return name.split(".")[0]
    return None


def refuse_split(location: SourceLocation) -> None:
    """A split asked for where there are none would be ignored in silence."""
    if location.named:
        raise SftError(
            where=location.key,
            problem=f"split {location.split!r} is asked for, but {display_path(location)!r} has no splits",
            fix="leave the split out, or name the held-out file as validation_path",
        )


def split_not_found(splits: Sequence[str], location: SourceLocation) -> SftError:
    """The error for a split that is not among those there are."""
    near = closest_name(location.split, splits) or splits[0]
    return SftError(
        where=location.key,
        problem=f"{display_path(location)!r} has no split {location.split!r}; it has {format_list(splits)}",
        fix=f"choose one, for example {near}",
    )


def not_text_file(what: str, location: SourceLocation) -> SftError:
    """The error for what is read line by line and is no text file."""
    return SftError(
        where=location.key.rpartition(".")[0] + ".format",
        problem=f"lines reads text files, one document a line, and {what!r} is none",
        fix=f"name files that end in {' or '.join(DOCUMENTS)}, packed or not, or leave the format out",
    )


def _refuse_mixed_kinds(files: Sequence[PurePath], location: SourceLocation) -> None:
    """The same rows often lie there once more as another kind of file."""
    kinds = sorted({suffix(file) for file in files})
    if len(kinds) > 1:
        raise SftError(
            where=location.key,
            problem=f"{display_path(location)!r} holds several kinds of files: {format_list(kinds)}",
            fix=f"name those to read with a glob, for example {display_path(location).rstrip('/')}/*{kinds[0]}",
        )


def refuse_mixed_documents(files: Sequence[PurePath], location: SourceLocation) -> None:
    """A glob that matches files of rows and documents would make rows of a README."""
    documents = [file for file in files if suffix(file) in DOCUMENTS]
    if documents and len(documents) < len(files):
        problem = f"{display_path(location)!r} matches files of rows and documents, such as {documents[0].name!r}"
        raise SftError(where=location.key, problem=problem, fix="match one of the two, for example *.jsonl")


def display_path(location: SourceLocation) -> str:
    """The path as given, without what an address may hold in secret."""
    return remote.display_url(location.given) if is_address(location.given) else location.given


def file_kind(file: PurePath, location: SourceLocation) -> str:
    """The ending that decides the reader."""
    kind = suffix(file)
    if kind not in READABLE:
        problem = f"cannot tell what {file.name!r} holds from its ending"
        raise SftError(where=location.key, problem=problem, fix=f"known endings: {KINDS}")
    return kind
