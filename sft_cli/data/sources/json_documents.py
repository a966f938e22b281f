"""Read JSON documents as a whole: lists, objects with the rows under a key, tables of columns, several values."""

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
"""Keys of splits, those of held-out rows first."""
ROW_KEYS = ("messages", "conversations", "conversation", "tools", "functions", "history", "replies", "turns", "dialog")
"""Keys of a single row that hold a list of objects."""
_GAP = re.compile(r"[\s,]*")


def read_json(file: File, label: str, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Record]:
    """Yield the rows of a JSON file: an array of objects, an object with one, a table of columns, or one row.

    Rows are numbered from 1. A sequence of values, over several lines or with commas between them, is a list of rows.
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
    """Return the location of a row in JSON, ``rows.json[0]`` for the first: counted from 0, as in ``messages[0]``."""
    return f"{label}[{number - 1}]"


def _values(text: str) -> list[Any]:
    """Return the values of a text, one or several."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
    decoder, values, position = json.JSONDecoder(), [], 0
    while (position := _skip_gap(text, position)) < len(text):
        value, position = decoder.raw_decode(text, position)
        values.append(value)
    return values


def _skip_gap(text: str, position: int) -> int:
    """Return the position after white space and at most one comma."""
    gap = _GAP.match(text, position)
    assert gap is not None, "the pattern matches the empty text"
    if gap.group().count(",") > (position > 0):
        raise json.JSONDecodeError("Expecting value", text, text.index(",", position))
    return gap.end()


def _rows_of(document: Any, label: str, options: ReadOptions) -> list[Any]:
    """Return the rows of a JSON document."""
    if isinstance(document, list):
        if options.named:
            problem = f"split {options.split!r} is set, but {label} is a list of rows, without splits"
            raise SftError(where=str(options.split_key), problem=problem, fix=f"remove {options.split_key}")
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
    """Return the rows of a table of columns, also in pandas' orients columns, index and split; None for others."""
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
    """Return the keys of an object that seem to hold rows: lists of objects, the longest first."""
    keys = [key for key, value in document.items() if isinstance(value, list) and value]
    keys = [key for key in keys if all(isinstance(entry, dict) and entry for entry in document[key])]
    keys = [key for key in keys if not {"role", "from"} & document[key][0].keys()]
    return sorted(keys, key=lambda key: -len(document[key]))


def _rows_not_found(document: dict[str, Any], label: str, options: ReadOptions) -> SftError:
    """Return the error for an object whose rows are under an unnamed key, or not under the configured key."""
    holding = _row_list_keys(document)
    problem = f"the file is one object with the keys {format_list(document)}"
    if options.named:
        problem = f"{label} has no rows under {options.split!r}; it is one object with the keys {format_list(document)}"
    elif holding:
        problem += f"; its rows seem to be under {holding[0]!r}"
    near = closest_name(options.split, holding) if options.named else None
    likely_key = near or (holding[0] if holding else None)
    if likely_key is None or options.split_key is None:
        return SftError(where=label, problem=problem, fix="write the rows as an array of objects")
    return SftError(where=label, problem=problem, fix=format_override(options.split_key, likely_key))
