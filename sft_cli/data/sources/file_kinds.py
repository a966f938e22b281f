"""The kinds of files that hold rows, by their endings."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from sft_cli.data.sources import columnar, json_documents, text_files
from sft_cli.data.sources.lines import COMPRESSED, WHOLE, File, Span
from sft_cli.data.sources.read_options import How

LINES = "lines"
"""Text files of one document a line: asked for by the format of that name, for their ending does not tell."""

_WHOLE: Mapping[str, text_files.Reader] = {
    ".json": json_documents.json_document,
    ".csv": text_files.comma_separated,
    ".tsv": text_files.tab_separated,
    ".txt": text_files.document,
    ".md": text_files.document,
}
"""Kinds that are read from the beginning."""
_LINES: Mapping[str, Callable[[File, str, Span, How], Iterator[text_files.Record]]] = {
    ".jsonl": text_files.json_lines,
    ".ndjson": text_files.json_lines,
    LINES: text_files.text_lines,
}
COLUMNAR: Mapping[str, Callable[[File, str, Span], Iterator[text_files.Record]]] = {
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
}
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", *COLUMNAR, ".txt", ".md")
READ = {*_WHOLE, *_LINES, *COLUMNAR}
"""Every kind there is."""
TABLES = (".csv", ".tsv")
"""Kinds whose fields are separated by a delimiter."""

DOCUMENTS = (".txt", ".md")
"""Each file is one row, unless it is read by lines."""

NOTES = ("readme", "license", "licence")
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


def records(kind: str, file: File, label: str, how: How, span: Span = WHOLE) -> Iterator[text_files.Record]:
    """The records of a file; of a part of it where its kind can be cut."""
    if kind in COLUMNAR:
        return COLUMNAR[kind](file, label, span)
    if kind in _LINES:
        return _LINES[kind](file, label, span, how)
    assert span == WHOLE, f"a {kind} file is never cut"
    return _WHOLE[kind](file, label, how)


def place(kind: str, label: str, number: int) -> str:
    """Where a row is: its line, its number in a columnar file, or its element in a JSON document."""
    return json_documents.element(label, number) if kind == ".json" else f"{label}:{number}"
