"""Formats that installed packages bring: entry points of the group ``sft_cli.formats``.

Each names a function from a row (a mapping of its columns) to a list of messages, to a mapping of the fields of a
format of the table (``{"messages": …, "tools": …}``), or to a text.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sft_cli.data.formats.fields import Fields
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.errors import SftError
from sft_cli.types import Row

GROUP = "sft_cli.formats"
Function = Callable[[Mapping[str, Any]], Any]


@cache
def installed_formats() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of the group by name; a name that two packages use has two."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, {})[entry_label(point)] = point  # a package found twice on the path is one
    return {name: tuple(found[name].values()) for name in sorted(found)}


def entry_label(point: EntryPoint) -> str:
    """``name (package version)``: for the manifest, and for the cache to notice another version."""
    assert point.dist is not None, "entry_points() gives every entry point its distribution"
    return f"{point.name} ({point.dist.name} {point.dist.version})"


def entry_fingerprint(point: EntryPoint) -> str:
    """Its label and BLAKE2b of its module: another version, or an edited package, is another format."""
    try:
        spec = find_spec(point.module)
    except Exception:  # a package around the module that cannot be imported: ``load_format`` will say so
        spec = None
    code = Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
    return f"{entry_label(point)} {hashlib.blake2b(code, digest_size=16).hexdigest()}"


def load_format(point: EntryPoint, where: str) -> Function:
    """The function behind an entry point."""
    try:
        function = point.load()
    except Exception as error:  # importing a package of someone else's may fail in any way
        raise SftError(
            where=where,
            problem=f"the format {entry_label(point)} cannot be imported: {describe_exception(error)}",
            fix=f"repair or reinstall the package; its entry point is {point.value}",
        ) from error
    if not callable(function):
        raise SftError(
            where=where,
            problem=f"the format {entry_label(point)} is {short_repr(function)}, not a function of a row",
            fix=f"let the entry point {point.value} name a function",
        )
    return function


def call_format(function: Function, row: Row, name: str) -> Fields:
    """The fields that a package's function makes of a row; a bare list is messages, a bare text is text."""
    try:
        value = function(dict(row.values))
        if isinstance(value, Iterator | tuple):
            value = list(value)
        # As JSON and back: whatever kinds of mappings and sequences it is made of, dicts and lists come out.
        value = json.loads(json.dumps(value, default=str))
    except Exception as error:  # the function is someone else's; whatever it raises is about this row
        raise RowError(
            where=row.where,
            reason=f"format {name} failed",
            problem=f"the format {name} says {describe_exception(error)}",
            fix="correct the row or the format, or leave such rows out with data.on_bad_row=drop",
        ) from error
    if isinstance(value, list):
        value = {"messages": value}
    elif isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise RowError(
            where=row.where,
            reason=f"format {name} gave no messages",
            problem=f"the format {name} gives {short_repr(value)}; expected messages, a mapping of fields, or a text",
            fix="let the function return [{'role': …, 'content': …}, …]",
        )
    return Fields(value, {key: key for key in value}, row)


def describe_exception(error: Exception) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
