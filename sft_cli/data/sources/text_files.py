"""Text files to rows: JSON, JSON lines, CSV, documents; plain or compressed. Every row carries its number."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import RowError, shorten
from sft_cli.data.sources import csv_tables
from sft_cli.data.sources.lines import WHOLE, File, Span, lines
from sft_cli.data.sources.read_options import PLAIN, How
from sft_cli.errors import SftError

Record = tuple[int, Mapping[str, Any] | RowError]
"""A row's number from 1 (the line it starts on, or its place among the rows), and its columns or why there are none."""

Reader = Callable[[File, str, How], Iterator[Record]]
"""From a file, the label that names it in errors, and how it is read to its records, in file order."""

GUESSES = ("cp1252", "latin-1")
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


def json_lines(file: File, label: str, span: Span = WHOLE, how: How = PLAIN) -> Iterator[Record]:
    """One object a line; blank lines are counted and hold no row. Streams."""
    for number, values, _ in json_lines_with_ends(file, label, span, how):
        yield number, values


def json_lines_with_ends(
    file: File, label: str, span: Span = WHOLE, how: How = PLAIN
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``json_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, how, _object)


def text_lines(file: File, label: str, span: Span = WHOLE, how: How = PLAIN) -> Iterator[Record]:
    """One document a line, one row each under ``text``; lines of white space are counted and hold no row. Streams."""
    for number, values, _ in text_lines_with_ends(file, label, span, how):
        yield number, values


def text_lines_with_ends(
    file: File, label: str, span: Span = WHOLE, how: How = PLAIN
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``text_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, how, _text)


def _by_line(
    file: File, label: str, span: Span, how: How, row: Callable[[bytes, str, How], dict[str, Any] | RowError]
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """The row of each line that is not blank, with its number and the position in bytes behind it."""
    for number, line, end in lines(file, label, span, how):
        if line.strip():
            yield number, row(line.rstrip(b"\r\n"), f"{label}:{number}", how), end


def _text(line: bytes, where: str, how: How) -> dict[str, Any] | RowError:
    """The document on one line."""
    try:
        return {"text": line.decode("utf-8")}
    except UnicodeDecodeError as error:
        return not_utf8(where, error, how)


def document(file: File, label: str, how: How = PLAIN) -> Iterator[Record]:
    """A text as it stands, one row under ``text``; a file of nothing but white space holds no row."""
    content = b"".join(line.content for line in lines(file, label, how=how))
    if content.strip():
        yield 1, _text(content, f"{label}:1", how)


def comma_separated(file: File, label: str, how: How = PLAIN, delimiter: str = ",") -> Iterator[Record]:
    """CSV with a header line; a record's number is the physical line on which it starts. Streams."""
    # The limit of 128 KiB a field is for untrusted uploads; documents are longer.
    csv.field_size_limit(2**31 - 1)
    delimiter = how.delimiter or delimiter
    table = csv.reader(_decoded(file, label, how), delimiter=delimiter, strict=True)
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
            header = csv_tables.header(cells, f"{label}:{start}", delimiter, how)
        elif cells and header is not None:
            yield start, csv_tables.record(header, cells, f"{label}:{start}", delimiter)
        start = table.line_num + 1


def tab_separated(file: File, label: str, how: How = PLAIN) -> Iterator[Record]:
    """As ``comma_separated``, with tabs."""
    return comma_separated(file, label, how, delimiter="\t")


def _decoded(file: File, label: str, how: How) -> Iterator[str]:
    """Physical lines as text."""
    for number, line, _ in lines(file, label, how=how):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(f"{label}:{number}", error, how) from error


def _object(line: bytes, where: str, how: How) -> dict[str, Any] | RowError:
    """The object on one line."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(where, error, how)
    except (ValueError, RecursionError) as error:
        fix = "repair this line; each line holds one JSON object"
        return RowError(where=where, reason="invalid JSON", problem=plain(error)[1], fix=fix)
    return value if isinstance(value, dict) else not_an_object(value, where)


def plain(error: Exception) -> tuple[int, str]:
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
        problem=f"the row is {shorten(value)}, not an object",
        fix='write {"column": value, …} for each row',
    )


def not_utf8(where: str, error: UnicodeDecodeError, how: How) -> RowError:
    """The error for bytes that are no UTF-8, with the encoding they are most likely in and what they then say."""
    fix = "save the file as UTF-8"
    near = error.object[max(0, error.start - 20) : error.start + 20]
    for encoding in GUESSES if how.encoding is None else ():
        try:
            read = near.decode(encoding)
        except UnicodeDecodeError:
            continue
        fix = f"{format_override(f'{how.source}.encoding', encoding)} if {read.strip()!r} is what it says, or {fix}"
        break
    return RowError(
        where=where,
        reason="wrong encoding",
        problem=f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} is not UTF-8",
        fix=fix,
    )
