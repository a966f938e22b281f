"""JSON that is read as a whole: lists, objects that hold the rows under a key, tables by column, several values."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import listing, nearest, shorten
from sft_cli.data.sources.lines import File, lines
from sft_cli.data.sources.read_options import PLAIN, How
from sft_cli.data.sources.text_files import Record, not_an_object, not_utf8, plain
from sft_cli.errors import SftError

WRAPPERS = ("data", "rows")
"""Keys under which a JSON object may hold its rows."""
SPLITS = ("validation", "valid", "val", "dev", "test", "eval", "train")
"""Keys of a file of held-out rows."""
OF_A_ROW = ("messages", "conversations", "conversation", "tools", "functions", "history", "replies", "turns", "dialog")
"""Keys under which a single row holds a list of objects."""
_GAP = re.compile(r"[\s,]*")


def json_document(file: File, label: str, how: How = PLAIN) -> Iterator[Record]:
    """The rows of a JSON file: an array of objects, an object that holds one, a table of columns, or one row.

    A row's number is its place among them, from 1. Values that follow one another, each over several lines or with
    commas between them, are rows, too.
    """
    content = b"".join(line.content for line in lines(file, label, how=how))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(label, error, how) from error
    try:
        values = _values(text)
    except (ValueError, RecursionError) as error:
        place, problem = plain(error)
        raise SftError(
            where=f"{label}:{place}", problem=problem, fix="repair the file; it is read as a whole"
        ) from error
    rows = values if len(values) > 1 else _elements(values[0], label, how)
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else not_an_object(row, element(label, number))


def element(label: str, number: int) -> str:
    """The place of a row in JSON, ``rows.json[0]`` for the first: counted from 0, as in ``messages[0]``."""
    return f"{label}[{number - 1}]"


def _values(text: str) -> list[Any]:
    """The values of a text, one or several."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := _after_gap(text, at)) < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def _after_gap(text: str, at: int) -> int:
    """The position behind white space and a comma."""
    gap = _GAP.match(text, at)
    assert gap is not None, "the pattern matches nothing, too"
    if gap.group().count(",") > (at > 0):
        raise json.JSONDecodeError("Expecting value", text, text.index(",", at))
    return gap.end()


def _elements(document: Any, label: str, how: How) -> list[Any]:
    """The rows of a JSON document."""
    if isinstance(document, list):
        if how.named:
            problem = f"split {how.split!r} is asked for, but {label} is a list of rows, without splits"
            raise SftError(where=str(how.split_key), problem=problem, fix=f"leave {how.split_key} out")
        return document
    if not isinstance(document, dict):
        raise SftError(
            where=label,
            problem=f"the file holds {shorten(document)}, not rows",
            fix="write an array of objects, one for each row",
        )
    keys = [how.split] if how.named or how.split_key else [how.split, *SPLITS]
    for key in keys if how.named else [*keys, *WRAPPERS]:
        rows = document.get(key)
        if isinstance(rows, list) and not (rows and isinstance(rows[0], list)):
            return rows
    if how.named:
        raise _no_key(document, label, how)
    rows = _by_column(document)
    if rows is not None:
        return rows
    if _holding(document) and not any(key in document for key in OF_A_ROW):
        raise _no_key(document, label, how)
    return [document]


def _by_column(document: dict[str, Any]) -> list[Any] | None:
    """The rows of a table of columns, or as pandas writes one with orient=columns, index or split; None for others."""
    columns = list(document.values())
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        names = document["columns"]
        fitting = all(isinstance(row, list) and len(row) == len(names) for row in document["data"])
        return [dict(zip(names, row, strict=True)) for row in document["data"]] if fitting else None
    if not columns:
        return None
    if all(isinstance(column, dict) and column for column in columns):
        numbers = list(columns[0])
        if all(key.isdecimal() for key in numbers) and all(list(column) == numbers for column in columns):
            return [{name: column[number] for name, column in document.items()} for number in numbers]
        return columns if all(key.isdecimal() for key in document) else None
    flat = all(isinstance(column, list) and not any(isinstance(cell, dict) for cell in column) for column in columns)
    if len(columns) > 1 and flat and len({len(column) for column in columns}) == 1:
        return [dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _holding(document: dict[str, Any]) -> list[str]:
    """The keys under which an object seems to hold rows: lists of objects, the longest first."""
    found = [key for key, value in document.items() if isinstance(value, list) and value]
    found = [key for key in found if all(isinstance(entry, dict) and entry for entry in document[key])]
    found = [key for key in found if not {"role", "from"} & document[key][0].keys()]
    return sorted(found, key=lambda key: -len(document[key]))


def _no_key(document: dict[str, Any], label: str, how: How) -> SftError:
    """The error for an object whose rows are under a key that nobody named, or under another than was named."""
    holding = _holding(document)
    problem = f"the file is one object with the keys {listing(document)}"
    if how.named:
        problem = f"{label} has no rows under {how.split!r}; it is one object with the keys {listing(document)}"
    elif holding:
        problem += f"; its rows seem to be under {holding[0]!r}"
    near = nearest(how.split, holding) if how.named else None
    meant = near or (holding[0] if holding else None)
    if meant is None or how.split_key is None:
        return SftError(where=label, problem=problem, fix="write the rows as an array of objects")
    return SftError(where=label, problem=problem, fix=format_override(how.split_key, meant))
