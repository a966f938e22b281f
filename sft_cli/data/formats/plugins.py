"""Load the formats of installed packages: entry points of the group ``sft_cli.formats``.

An entry point names a function of a row (a mapping of its columns). It returns a list of messages, a mapping of the
fields of a format of the table (``{"messages": …, "tools": …}``), or a text.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sft_cli.data.formats.fields import Fields
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.types import Row
from sft_cli.utils.entry_points import describe_exception, entry_label

GROUP = "sft_cli.formats"
Function = Callable[[Mapping[str, Any]], Any]


def entry_fingerprint(point: EntryPoint) -> str:
    """Return the label and the BLAKE2b of the module, so that an edited package counts as another format."""
    try:
        spec = find_spec(point.module)
    except Exception:  # the parent package cannot be imported: ``load_function`` raises the error
        spec = None
    code = Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
    return f"{entry_label(point)} {hashlib.blake2b(code, digest_size=16).hexdigest()}"


def call_format(function: Function, row: Row, name: str) -> Fields:
    """Return the fields that a package's function gives for a row; a bare list is messages, a bare text is text."""
    try:
        value = function(dict(row.values))
        if isinstance(value, Iterator | tuple):
            value = list(value)
        # The round trip through JSON converts all kinds of mappings and sequences to dicts and lists.
        value = json.loads(json.dumps(value, default=str))
    except Exception as error:  # a third-party function may raise anything
        raise RowError(
            where=row.where,
            reason=f"format {name} failed",
            problem=f"the format {name} raised {describe_exception(error)}",
            fix="correct the row or the format",
        ) from error
    if isinstance(value, list):
        value = {"messages": value}
    elif isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise RowError(
            where=row.where,
            reason=f"format {name} returned no messages",
            problem=f"the format {name} returned {short_repr(value)}; expected messages, fields or a text",
            fix="change the function to return [{'role': …, 'content': …}, …]",
        )
    return Fields(value, {key: key for key in value}, row)
