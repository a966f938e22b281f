"""Text files to rows: JSON, JSON lines, CSV, documents; plain or compressed. Every row carries its number."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sft_cli.data.problems import RowError, shorten
from sft_cli.data.reading.opening import WHOLE, File, Span, lines
from sft_cli.errors import SftError

Record = tuple[int, Mapping[str, Any] | RowError]
"""A row's number from 1 (the line it starts on, or its place among the rows), and its columns or why there are none."""

Reader = Callable[[File, str], Iterator[Record]]
"""From a file and the label that names it in errors to its records, in file order."""

WRAPPERS = ("data", "rows")
"""Keys under which a JSON object may hold its rows."""

JSON_PROBLEMS = {
    "Expecting value": "a value is missing or misspelt",
    "Expecting ',' delimiter": "a comma is missing, or a quotation mark inside a text lacks its backslash",
    "Expecting ':' delimiter": "a colon is missing after a key",
    "Expecting property name enclosed in double quotes": "a key in double quotes is missing",
    "Unterminated string starting at": "a text is opened and never closed",
    "Invalid control character at": "a raw line break or tab stands inside a text",
    "Invalid \\escape": "a backslash is followed by a character that it cannot escape",
    "Invalid \\uXXXX escape": "a \\u escape lacks its four digits",
    "Extra data": "something follows the end of the first value",
}
"""What json's messages mean to someone who only edits data."""


def json_lines(file: File, label: str, span: Span = WHOLE) -> Iterator[Record]:
    """One object a line; blank lines are counted and hold no row. Streams."""
    for number, values, _ in json_lines_with_ends(file, label, span):
        yield number, values


def json_lines_with_ends(
    file: File, label: str, span: Span = WHOLE
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``json_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, _object)


def text_lines(file: File, label: str, span: Span = WHOLE) -> Iterator[Record]:
    """One document a line, one row each under ``text``; lines of white space are counted and hold no row. Streams."""
    for number, values, _ in text_lines_with_ends(file, label, span):
        yield number, values


def text_lines_with_ends(
    file: File, label: str, span: Span = WHOLE
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """As ``text_lines``, each row with the position in bytes behind its line."""
    return _by_line(file, label, span, _text)


def _by_line(
    file: File, label: str, span: Span, row: Callable[[bytes, str], dict[str, Any] | RowError]
) -> Iterator[tuple[int, Mapping[str, Any] | RowError, int]]:
    """The row of each line that is not blank, with its number and the position in bytes behind it."""
    for number, line, end in lines(file, label, span):
        if line.strip():
            yield number, row(line.rstrip(b"\r\n"), f"{label}:{number}"), end


def _text(line: bytes, where: str) -> dict[str, Any] | RowError:
    """The document on one line."""
    try:
        return {"text": line.decode("utf-8")}
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)


def document(file: File, label: str) -> Iterator[Record]:
    """A text as it stands, one row under ``text``; a file of nothing but white space holds no row."""
    content = b"".join(line.content for line in lines(file, label))
    if content.strip():
        yield 1, _text(content, f"{label}:1")


def json_document(file: File, label: str) -> Iterator[Record]:
    """An array of objects, an object that holds one, a table of columns, or one row; also JSON lines named .json."""
    content = b"".join(line.content for line in lines(file, label))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(label, error) from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from json_lines(file, label)
            return
        place, problem = _plain(error)
        raise SftError(
            where=f"{label}:{place}", problem=problem, fix="repair the file; it is read as a whole"
        ) from error
    for number, element in enumerate(_elements(document, label), start=1):
        yield number, element if isinstance(element, dict) else _not_an_object(element, f"{label}:{number}")


def comma_separated(file: File, label: str, delimiter: str = ",") -> Iterator[Record]:
    """CSV with a header line; a record's number is the physical line on which it starts. Streams."""
    # The limit of 128 KiB a field is for untrusted uploads; documents are longer.
    csv.field_size_limit(2**31 - 1)
    table = csv.reader(_decoded(file, label), delimiter=delimiter, strict=True)
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
            header = _header(cells, f"{label}:{start}", delimiter)
        elif cells and header is not None:
            yield start, _record(header, cells, f"{label}:{start}")
        start = table.line_num + 1


def tab_separated(file: File, label: str) -> Iterator[Record]:
    """As ``comma_separated``, with tabs."""
    return comma_separated(file, label, delimiter="\t")


def _decoded(file: File, label: str) -> Iterator[str]:
    """Physical lines as text."""
    for number, line, _ in lines(file, label):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{label}:{number}", error) from error


def _object(line: bytes, where: str) -> dict[str, Any] | RowError:
    """The object on one line."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)
    except (ValueError, RecursionError) as error:
        fix = "repair this line; each line holds one JSON object"
        return RowError(where=where, reason="invalid JSON", problem=_plain(error)[1], fix=fix)
    return value if isinstance(value, dict) else _not_an_object(value, where)


def _elements(document: Any, label: str) -> list[Any]:
    """The rows of a JSON document."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise SftError(
            where=label,
            problem=f"the file holds {shorten(document)}, not rows",
            fix="write an array of objects, one for each row",
        )
    for key in WRAPPERS:
        if isinstance(document.get(key), list):
            return document[key]
    columns = list(document.values())
    flat = all(isinstance(column, list) and not any(isinstance(cell, dict) for cell in column) for column in columns)
    if len(columns) > 1 and flat and len({len(column) for column in columns}) == 1:
        return [dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return [document]


def _header(cells: list[str], where: str, delimiter: str) -> list[str]:
    """Column names: at least one, all different, none empty."""
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        name = repr(twice[0]) if twice[0] else "an empty name"
        raise SftError(where=where, problem=f"the header has {name} twice", fix="give each column a name of its own")
    if "" in cells:
        number = cells.index("") + 1
        raise SftError(where=where, problem=f"column {number} has no name", fix="write its name into the first line")
    others = [mark for mark in (",", ";", "\t") if mark != delimiter and mark in cells[0]]
    if len(cells) == 1 and others:
        raise SftError(
            where=where,
            problem=f"the header is one column, {shorten(cells[0])}; its separator seems to be {others[0]!r}",
            fix="save the file with commas, or with tabs and the ending .tsv",
        )
    return cells


def _record(header: list[str], cells: list[str], where: str) -> dict[str, str] | RowError:
    """The cells under their names."""
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return RowError(
        where=where,
        reason="wrong number of fields",
        problem=f"{len(cells)} fields under a header of {len(header)}",
        fix='put fields that hold commas or line breaks between quotation marks ("…")',
    )


def _plain(error: Exception) -> tuple[int, str]:
    """Line number and plain words for what json could not read."""
    if isinstance(error, json.JSONDecodeError):
        words = JSON_PROBLEMS.get(error.msg, error.msg)
        near = error.doc[max(0, error.pos - 15) : error.pos + 15].strip()
        return error.lineno, f"invalid JSON at column {error.colno}, near {near!r}: {words}"
    return 1, f"invalid JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _not_an_object(value: Any, where: str) -> RowError:
    return RowError(
        where=where,
        reason="not an object",
        problem=f"the row is {shorten(value)}, not an object",
        fix='write {"column": value, …} for each row',
    )


def _not_utf8(where: str, error: UnicodeDecodeError) -> RowError:
    return RowError(
        where=where,
        reason="wrong encoding",
        problem=f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} is not UTF-8",
        fix="save the file as UTF-8",
    )
