"""JSON that is read as a whole: lists, objects that hold the rows under a key, tables by column, several values."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import format_list, short_repr
from sft_cli.data.sources.lines import File, read_lines
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions
from sft_cli.data.sources.text_files import Record, describe_json_error, not_an_object, not_utf8
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

WRAPPER_KEYS = ("data", "rows")
"""Keys under which a JSON object may hold its rows."""
SPLIT_KEYS = ("validation", "valid", "val", "dev", "test", "eval", "train")
"""Keys of a file of held-out rows."""
ROW_KEYS = ("messages", "conversations", "conversation", "tools", "functions", "history", "replies", "turns", "dialog")
"""Keys under which a single row holds a list of objects."""
_GAP = re.compile(r"[\s,]*")


def read_json(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Record]:
    """The rows of a JSON file: an array of objects, an object that holds one, a table of columns, or one row.

    A row's number is its place among them, from 1. Values that follow one another, each over several lines or with
    commas between them, are rows, too.
    """
    content = b"".join(line.content for line in read_lines(file, label, options=options))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(label, error, options) from error
    try:
        values = _values(text)
    except (ValueError, RecursionError) as error:
        place, problem = describe_json_error(error)
        raise SftError(
            where=f"{label}:{place}", problem=problem, fix="repair the file; it is read as a whole"
        ) from error
    rows = values if len(values) > 1 else _rows_of(values[0], label, options)
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else not_an_object(row, element_location(label, number))


def element_location(label: str, number: int) -> str:
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
    while (at := _skip_gap(text, at)) < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def _skip_gap(text: str, at: int) -> int:
    """The position behind white space and a comma."""
    gap = _GAP.match(text, at)
    assert gap is not None, "the pattern matches nothing, too"
    if gap.group().count(",") > (at > 0):
        raise json.JSONDecodeError("Expecting value", text, text.index(",", at))
    return gap.end()


def _rows_of(document: Any, label: str, options: ReadOptions) -> list[Any]:
    """The rows of a JSON document."""
    if isinstance(document, list):
        if options.named:
            problem = f"split {options.split!r} is asked for, but {label} is a list of rows, without splits"
            raise SftError(where=str(options.split_key), problem=problem, fix=f"leave {options.split_key} out")
        return document
    if not isinstance(document, dict):
        raise SftError(
            where=label,
            problem=f"the file holds {short_repr(document)}, not rows",
            fix="write an array of objects, one for each row",
        )
    keys = [options.split] if options.named or options.split_key else [options.split, *SPLIT_KEYS]
    for key in keys if options.named else [*keys, *WRAPPER_KEYS]:
        rows = document.get(key)
        if isinstance(rows, list) and not (rows and isinstance(rows[0], list)):
            return rows
    if options.named:
        raise _rows_not_found(document, label, options)
    rows = _rows_of_columns(document)
    if rows is not None:
        return rows
    if _row_list_keys(document) and not any(key in document for key in ROW_KEYS):
        raise _rows_not_found(document, label, options)
    return [document]


def _rows_of_columns(document: dict[str, Any]) -> list[Any] | None:
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


def _row_list_keys(document: dict[str, Any]) -> list[str]:
    """The keys under which an object seems to hold rows: lists of objects, the longest first."""
    found = [key for key, value in document.items() if isinstance(value, list) and value]
    found = [key for key in found if all(isinstance(entry, dict) and entry for entry in document[key])]
    found = [key for key in found if not {"role", "from"} & document[key][0].keys()]
    return sorted(found, key=lambda key: -len(document[key]))


def _rows_not_found(document: dict[str, Any], label: str, options: ReadOptions) -> SftError:
    """The error for an object whose rows are under a key that nobody named, or under another than was named."""
    holding = _row_list_keys(document)
    problem = f"the file is one object with the keys {format_list(document)}"
    if options.named:
        problem = f"{label} has no rows under {options.split!r}; it is one object with the keys {format_list(document)}"
    elif holding:
        problem += f"; its rows seem to be under {holding[0]!r}"
    near = closest_name(options.split, holding) if options.named else None
    meant = near or (holding[0] if holding else None)
    if meant is None or options.split_key is None:
        return SftError(where=label, problem=problem, fix="write the rows as an array of objects")
    return SftError(where=label, problem=problem, fix=format_override(options.split_key, meant))
