"""Select the files of a source: those of one kind, and of the configured split."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.redaction import is_address
from sft_cli.data.row_errors import format_list
from sft_cli.data.sources import columnar, json_documents, remote, text_files
from sft_cli.data.sources.lines import COMPRESSED, WHOLE_FILE, File, FileSpan
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

LINES = "lines"
"""The kind of text files with one document per line: set by the format of that name, not by a suffix."""

_WHOLE: Mapping[str, text_files.Reader] = {
    ".json": json_documents.read_json,
    ".csv": text_files.read_csv,
    ".tsv": text_files.read_tsv,
    ".txt": text_files.read_document,
    ".md": text_files.read_document,
}
"""Readers of kinds that are read as a whole."""
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
"""All kinds of files."""
TABLES = (".csv", ".tsv")
"""Kinds whose fields are separated by a delimiter."""

DOCUMENTS = (".txt", ".md")
"""Kinds whose files are one row each, unless they are read by lines."""

NOTE_NAMES = ("readme", "license", "licence")
"""Prefixes of the names of documents that describe a data set and are not part of it."""

TEXT = tuple(kind for kind in ENDINGS if kind not in COLUMNAR)
KINDS = f"{', '.join(ENDINGS)}; all but .parquet and .arrow also with {', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"


def suffix(path: PurePath) -> str:
    """Return the suffix that selects the reader; compression suffixes count only after those of text formats."""
    suffixes = [ending.lower() for ending in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in TEXT else inner + suffixes[-1]
    return suffixes[-1] if suffixes else ""


def read_records(
    kind: str, file: File, label: str, options: ReadOptions, span: FileSpan = WHOLE_FILE
) -> Iterator[text_files.Record]:
    """Return the records of a file, or of a part of it if its kind can be cut.

    Args:
        kind: Kind of the file.
        file: The file.
        label: Its label, for errors.
        options: How it is read.
        span: The part to read.
    """
    if kind in COLUMNAR:
        return COLUMNAR[kind](file, label, span)
    if kind in _LINES:
        return _LINES[kind](file, label, span, options)
    assert span == WHOLE_FILE, f"a {kind} file is never cut"
    return _WHOLE[kind](file, label, options)


def row_location(kind: str, label: str, number: int) -> str:
    """Return the location of a row: its line, its number in a columnar file, or its element in a JSON document."""
    return json_documents.element_location(label, number) if kind == ".json" else f"{label}:{number}"


SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")
"""Names of files and folders that are splits; files named <split>-00000-of-00002 are splits, too."""

P = TypeVar("P", bound=PurePath)


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """The configured location of a source's rows.

    Attributes:
        given: File, glob, directory, address or ``builtin:…``, as configured.
        split: The split to read.
        named: Whether the user set the split, so that a path without splits is an error.
        key: The configuration key to name in an error.
        lines: Whether text files hold one document per line, not one per file.
        options: How the files are read.
    """

    given: str
    split: str
    named: bool
    key: str
    lines: bool = False
    options: ReadOptions = DEFAULT_OPTIONS


def select_files(files: Sequence[P], location: SourceLocation) -> list[P]:
    """Return the files of a directory (relative paths) that are data, of one kind and of the configured split."""
    files = [file for file in files if suffix(file) in READABLE and not _is_not_data(file)]
    if not files:
        problem = f"{display_path(location)!r} holds no data file"
        raise SftError(where=location.key, problem=problem, fix=f"{location.key}=FILE with one of the suffixes {KINDS}")
    _refuse_mixed_kinds(files, location)
    return _of_split(files, location)


def _is_not_data(file: PurePath) -> bool:
    """Return whether a file of a directory is hidden or a note about the data."""
    note = suffix(file) in DOCUMENTS and file.name.lower().startswith(NOTE_NAMES)
    return note or any(part.startswith(".") for part in file.parts)


def _of_split(files: Sequence[P], location: SourceLocation) -> list[P]:
    """Return the files of the configured split; all files if the directory has no splits."""
    splits = {file: _split_of(file) for file in files}
    names = sorted({split for split in splits.values() if split is not None})
    if not names:
        refuse_split(location)
        return list(files)
    strays = [file for file, split in splits.items() if split is None]
    if strays:
        raise SftError(
            where=location.key,
            problem=f"{display_path(location)!r} has splits {format_list(names)}, but {strays[0].name!r} is in none",
            fix=f"move that file, or name the files to read: {_glob(location, suffix(files[0]))}",
        )
    if location.split not in names:
        raise split_not_found(names, location)
    return [file for file, split in splits.items() if split == location.split]


def _split_of(relative: PurePath) -> str | None:
    """Return the split of a file, by its own name or that of a folder above it."""
    for name in relative.parts:
        shard = re.match(r"(.+)-\d{5}-of-\d{5}\.", name)
        if shard:
            return shard[1]
        if name.split(".")[0] in SPLIT_NAMES:
            return name.split(".")[0]
    return None


def refuse_split(location: SourceLocation) -> None:
    """Refuse a configured split of a path without splits, where it would be ignored."""
    if location.named:
        source = location.options.source
        raise SftError(
            where=location.key,
            problem=f"split {location.split!r} is set, but {display_path(location)!r} has no splits",
            fix=f"remove {source}.split, or {source}.validation_path=FILE for held-out rows",
        )


def split_not_found(splits: Sequence[str], location: SourceLocation) -> SftError:
    """Return the error for a split that does not exist."""
    near = closest_name(location.split, splits) or splits[0]
    return SftError(
        where=location.key,
        problem=f"{display_path(location)!r} has no split {location.split!r}; it has {format_list(splits)}",
        fix=format_override(location.options.split_key or f"{location.options.source}.split", near),
    )


def _glob(location: SourceLocation, ending: str) -> str:
    """Return the setting that names the files of a directory with one ending."""
    return format_override(location.key, f"{display_path(location).rstrip('/')}/*{ending}")


def not_text_file(name: str, location: SourceLocation) -> SftError:
    """Return the error for a path with the format lines that is not a text file."""
    return SftError(
        where=location.key.rpartition(".")[0] + ".format",
        problem=f"the format lines reads text files with one document per line, and {name!r} is not a text file",
        fix=f"rename the file to end in {' or '.join(DOCUMENTS)}, or remove {location.options.source}.format",
    )


def _refuse_mixed_kinds(files: Sequence[PurePath], location: SourceLocation) -> None:
    """Refuse a directory with several kinds of files, which often hold the same rows twice."""
    kinds = sorted({suffix(file) for file in files})
    if len(kinds) > 1:
        raise SftError(
            where=location.key,
            problem=f"{display_path(location)!r} holds several kinds of files: {format_list(kinds)}",
            fix=f"name those to read, as in {_glob(location, kinds[0])}",
        )


def refuse_mixed_documents(files: Sequence[PurePath], location: SourceLocation) -> None:
    """Refuse a glob that matches data files and documents, where a README would become a row."""
    documents = [file for file in files if suffix(file) in DOCUMENTS]
    if documents and len(documents) < len(files):
        other = f"*{next(suffix(file) for file in files if file not in documents)}"
        typed = format_override(location.key, str(PurePath(location.given).with_name(other)))
        problem = f"{display_path(location)!r} matches data files and documents, such as {documents[0].name!r}"
        raise SftError(
            where=location.key,
            problem=problem,
            fix=f"name one of the two, as in {typed}",
        )


def display_path(location: SourceLocation) -> str:
    """Return the configured path, without the secrets of an address."""
    return remote.display_url(location.given) if is_address(location.given) else location.given


def file_kind(file: PurePath, location: SourceLocation) -> str:
    """Return the suffix that selects the reader of a file."""
    kind = suffix(file)
    if kind not in READABLE:
        problem = f"the suffix of {file.name!r} is not supported"
        raise SftError(where=location.key, problem=problem, fix=f"{location.key}=FILE with one of the suffixes {KINDS}")
    return kind
