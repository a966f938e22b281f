"""The kinds of files that hold rows, by their endings."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from sft_cli.data.reading import columnar, readers
from sft_cli.data.reading.opening import COMPRESSED, File, Span

LINES = "lines"
"""Text files of one document a line: asked for by the format of that name, for their ending does not tell."""

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
    LINES: readers.text_lines,
}
SPAN_READERS: Mapping[str, Callable[[File, str, Span], Iterator[readers.Record]]] = {
    ".jsonl": readers.json_lines,
    ".ndjson": readers.json_lines,
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
    LINES: readers.text_lines,
}
"""Kinds of which a part can be read."""

DOCUMENTS = (".txt", ".md")
"""Each file is one row, unless it is read by lines."""

NOTES = ("readme", "license", "licence")
"""How the names of documents begin that are about the data of a directory, and none of its rows."""

ENDINGS = tuple(kind for kind in READERS if kind != LINES)
TEXT = tuple(kind for kind in ENDINGS if kind not in (".parquet", ".arrow"))
KINDS = f"{', '.join(ENDINGS)}; all but .parquet and .arrow also with {', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"


def suffix(path: PurePath) -> str:
    """The ending that decides the reader; those of packed files count only on text formats."""
    suffixes = [ending.lower() for ending in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in TEXT else inner + suffixes[-1]
    return suffixes[-1] if suffixes else ""
