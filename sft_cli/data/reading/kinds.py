"""The kinds of files that hold rows, by their endings."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from sft_cli.data.reading import columnar, readers
from sft_cli.data.reading.opening import COMPRESSED, File, Span

READERS: Mapping[str, readers.Reader] = {
    ".json": readers.json_document,
    ".jsonl": readers.json_lines,
    ".ndjson": readers.json_lines,
    ".csv": readers.comma_separated,
    ".tsv": readers.tab_separated,
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
    ".txt": readers.document,
    ".md": readers.document,
}
SPAN_READERS: Mapping[str, Callable[[File, str, Span], Iterator[readers.Record]]] = {
    ".jsonl": readers.json_lines,
    ".ndjson": readers.json_lines,
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
}
"""Kinds of which a part can be read."""

DOCUMENTS = (".txt", ".md")
"""Each file is one row."""

NOTES = ("readme", "license", "licence")
"""How the names of documents begin that are about the data of a directory, and none of its rows."""

TEXT = tuple(kind for kind in READERS if kind not in (".parquet", ".arrow"))
KINDS = f"{', '.join(READERS)}; all but .parquet and .arrow also with {', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"


def suffix(path: PurePath) -> str:
    """The ending that decides the reader; those of packed files count only on text formats."""
    suffixes = [ending.lower() for ending in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in TEXT else inner + suffixes[-1]
    return suffixes[-1] if suffixes else ""
