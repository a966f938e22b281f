"""Text files to rows: JSON, JSON lines, CSV, documents; plain or compressed. Every row carries its number."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.data.sources import csv_tables
from sft_cli.data.sources.lines import WHOLE_FILE, File, FileSpan, read_lines
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions
from sft_cli.errors import SftError

Record = tuple[int, Mapping[str, Any] | RowError]
"""A row's number from 1 (the line it starts on, or its place among the rows), and its columns or why there are none."""

Reader = Callable[[File, str, ReadOptions], Iterator[Record]]
"""From a file, the label that names it in errors, and how it is read to its records, in file order."""

LIKELY_ENCODINGS = ("cp1252", "latin-1")
"""What text that is no UTF-8 is most often in, as Excel writes it."""

JSON_PROBLEMS = {
    "Expecting value": "a value is missing or misspelt",
    "Expecting ',' delimiter": "a comma is missing, or a quotation mark inside a text lacks its backslash",
    "Expecting ':' delimiter": "a colon is missing after a key",
    "Expecting property name enclosed in double quotes": "a key in double quotes is missing",
    "Unterminated string starting at": "a text is opened and never closed",
    "Invalid control character at": "a raw line break or tab is inside a text",
    "Invalid \\escape": "a backslash is followed by a character that it cannot escape",
    "Invalid \\uXXXX escape": "a \\u escape lacks its four digits",
    "Extra data": "something follows the end of the first value",
}
"""What json's messages mean to someone who only edits data."""


def read_json_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Record]:
    """One object a line; blank lines are counted and hold no row. Streams."""
    for number, values, _ in json_lines_with_offsets(file, label, span, options):
        yield number, values


def json_lines_with_offsets(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``read_json_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, options, _object)


def read_text_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Record]:
    """One document a line, one row each under ``text``; lines of white space are counted and hold no row. Streams."""
    for number, values, _ in text_lines_with_offsets(file, label, span, options):
        yield number, values


def text_lines_with_offsets(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``read_text_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, options, _text)


def _by_line(
    file: File,
    label: str,
    span: FileSpan,
    options: ReadOptions,
    row: Callable[[bytes, str, ReadOptions], dict[str, Any] | RowError],
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """The row of each line that is not blank, with its number and the position in bytes behind it."""
    for number, line, end in read_lines(file, label, span, options):
        if line.strip():
            yield number, row(line.rstrip(b"\r\n"), f"{label}:{number}", options), end


def _text(line: bytes, where: str, options: ReadOptions) -> dict[str, Any] | RowError:
    """The document on one line."""
    try:
        return {"text": line.decode("utf-8")}
    except UnicodeDecodeError as error:
        return not_utf8(where, error, options)


def read_document(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Record]:
    """A text as it stands, one row under ``text``; a file of nothing but white space holds no row."""
    content = b"".join(line.content for line in read_lines(file, label, options=options))
    if content.strip():
        yield 1, _text(content, f"{label}:1", options)


def read_csv(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS, delimiter: str = ",") -> Iterator[Record]:
    """CSV with a header line; a record's number is the physical line on which it starts. Streams."""
    # The limit of 128 KiB a field is for untrusted uploads; documents are longer.
    csv.field_size_limit(2**31 - 1)
    delimiter = options.delimiter or delimiter
    table = csv.reader(_decoded(file, label, options), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(table, None)
        except csv.Error as error:
            problem = f"not valid CSV: {error}"
            fix = 'double every quotation mark inside a quoted field ("") and close each field that is opened'
            if header is None:
                raise SftError(where=f"{label}:{start}", problem=problem, fix=fix) from error
            yield start, RowError(where=f"{label}:{start}", reason="invalid CSV", problem=problem, fix=fix)
            cells = []
        if cells is None:
            return
        if cells and header is None:
            header = csv_tables.column_names(cells, f"{label}:{start}", delimiter, options)
        elif cells and header is not None:
            yield start, csv_tables.row_from_cells(header, cells, f"{label}:{start}", delimiter)
        start = table.line_num + 1


def read_tsv(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Record]:
    """As ``read_csv``, with tabs."""
    return read_csv(file, label, options, delimiter="\t")


def _decoded(file: File, label: str, options: ReadOptions) -> Iterator[str]:
    """Physical lines as text."""
    for number, line, _ in read_lines(file, label, options=options):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(f"{label}:{number}", error, options) from error


def _object(line: bytes, where: str, options: ReadOptions) -> dict[str, Any] | RowError:
    """The object on one line."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(where, error, options)
    except (ValueError, RecursionError) as error:
        fix = "repair this line; each line holds one JSON object"
        return RowError(where=where, reason="invalid JSON", problem=describe_json_error(error)[1], fix=fix)
    return value if isinstance(value, dict) else not_an_object(value, where)


def describe_json_error(error: Exception) -> tuple[int, str]:
    """Line number and plain words for what json could not read."""
    if isinstance(error, json.JSONDecodeError):
        words = JSON_PROBLEMS.get(error.msg, error.msg)
        near = error.doc[max(0, error.pos - 15) : error.pos + 15].strip()
        return error.lineno, f"invalid JSON at column {error.colno}, near {near!r}: {words}"
    return 1, f"invalid JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def not_an_object(value: Any, where: str) -> RowError:
    """The error for a row that is another kind of value."""
    return RowError(
        where=where,
        reason="not an object",
        problem=f"the row is {short_repr(value)}, not an object",
        fix='write {"column": value, …} for each row',
    )


def not_utf8(where: str, error: UnicodeDecodeError, options: ReadOptions) -> RowError:
    """The error for bytes that are no UTF-8, with the encoding they are most likely in and what they then say."""
    fix = "save the file as UTF-8"
    near = error.object[max(0, error.start - 20) : error.start + 20]
    for encoding in LIKELY_ENCODINGS if options.encoding is None else ():
        try:
            read = near.decode(encoding)
        except UnicodeDecodeError:
            continue
        fix = f"{format_override(f'{options.source}.encoding', encoding)} if {read.strip()!r} is what it says, or {fix}"
        break
    return RowError(
        where=where,
        reason="wrong encoding",
        problem=f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} is not UTF-8",
        fix=fix,
    )
