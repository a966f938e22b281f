"""Read rows from text files: JSON lines, CSV, documents; plain or compressed. Every row has its number."""

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
"""A row's number from 1 (its first line, or its position among the rows), and its columns or its error."""

Reader = Callable[[File, str, ReadOptions], Iterator[Record]]
"""Reads the records of a file, in file order, from the file, its label in errors, and the reading options."""

LIKELY_ENCODINGS = ("cp1252", "latin-1")
"""The most likely encodings of text that is not UTF-8, as Excel writes it."""

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
"""Explanations of the messages of ``json``."""


def read_json_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Record]:
    """Yield one object per line, as it is read; blank lines count in the numbers and hold no row."""
    for number, values, _ in json_lines_with_offsets(file, label, span, options):
        yield number, values


def json_lines_with_offsets(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """Return the rows of ``read_json_lines``, each with the end position of its line in bytes."""
    return _by_line(file, label, span, options, _object)


def read_text_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Record]:
    """Yield one document per line, under ``text``; blank lines count in the numbers and hold no row."""
    for number, values, _ in text_lines_with_offsets(file, label, span, options):
        yield number, values


def text_lines_with_offsets(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """Return the rows of ``read_text_lines``, each with the end position of its line in bytes."""
    return _by_line(file, label, span, options, _text)


def _by_line(
    file: File,
    label: str,
    span: FileSpan,
    options: ReadOptions,
    row: Callable[[bytes, str, ReadOptions], dict[str, Any] | RowError],
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """Yield the row of each line that is not blank, with its number and its end position in bytes.

    Args:
        file: The file.
        label: Its label, for errors.
        span: The part to read.
        options: How the file is read.
        row: Makes the row of a line.
    """
    for number, line, end in read_lines(file, label, span, options):
        if line.strip():
            yield number, row(line.rstrip(b"\r\n"), f"{label}:{number}", options), end


def _text(line: bytes, where: str, options: ReadOptions) -> dict[str, Any] | RowError:
    """Return the document of one line."""
    try:
        return {"text": line.decode("utf-8")}
    except UnicodeDecodeError as error:
        return not_utf8(where, error, options)


def read_document(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Record]:
    """Yield a text unchanged as one row, under ``text``; a blank file holds no row."""
    content = b"".join(line.content for line in read_lines(file, label, options=options))
    if content.strip():
        yield 1, _text(content, f"{label}:1", options)


def read_csv(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS, delimiter: str = ",") -> Iterator[Record]:
    """Yield the rows of a CSV file with a header; a record's number is the line on which it starts."""
    # The default limit of 128 KiB per field is too small for documents.
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
            fix = 'double every quotation mark inside a quoted field ("") and close every quoted field'
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
    """Return the rows of a table with tabs, as ``read_csv`` does."""
    return read_csv(file, label, options, delimiter="\t")


def _decoded(file: File, label: str, options: ReadOptions) -> Iterator[str]:
    """Yield physical lines as text."""
    for number, line, _ in read_lines(file, label, options=options):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(f"{label}:{number}", error, options) from error


def _object(line: bytes, where: str, options: ReadOptions) -> dict[str, Any] | RowError:
    """Return the object of one line."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(where, error, options)
    except (ValueError, RecursionError) as error:
        fix = "repair this line; each line holds one JSON object"
        return RowError(where=where, reason="invalid JSON", problem=describe_json_error(error)[1], fix=fix)
    return value if isinstance(value, dict) else not_an_object(value, where)


def describe_json_error(error: Exception) -> tuple[int, str]:
    """Return the line number and the explanation of a JSON error."""
    if isinstance(error, json.JSONDecodeError):
        explanation = JSON_PROBLEMS.get(error.msg, error.msg)
        near = error.doc[max(0, error.pos - 15) : error.pos + 15].strip()
        return error.lineno, f"invalid JSON at column {error.colno}, near {near!r}: {explanation}"
    return 1, f"invalid JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def not_an_object(value: Any, where: str) -> RowError:
    """Return the error for a row that is not an object."""
    return RowError(
        where=where,
        reason="not an object",
        problem=f"the row is {short_repr(value)}, not an object",
        fix='write {"column": value, …} for each row',
    )


def not_utf8(where: str, error: UnicodeDecodeError, options: ReadOptions) -> RowError:
    """Return the error for bytes that are not UTF-8, with the most likely encoding and the text in it."""
    fix = "save the file as UTF-8"
    near = error.object[max(0, error.start - 20) : error.start + 20]
    for encoding in LIKELY_ENCODINGS if options.encoding is None else ():
        try:
            decoded = near.decode(encoding)
        except UnicodeDecodeError:
            continue
        setting = format_override(f"{options.source}.encoding", encoding)
        fix = f"{setting} if {decoded.strip()!r} is the right text, or {fix}"
        break
    return RowError(
        where=where,
        reason="wrong encoding",
        problem=f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} is not UTF-8",
        fix=fix,
    )
