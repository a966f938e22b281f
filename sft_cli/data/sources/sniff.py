"""What a JSON file holds whatever its ending says: one row a line, or a document that is read as a whole."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from sft_cli.data.sources.lines import read_lines
from sft_cli.data.sources.read_options import ReadOptions

LINES, WHOLE = (".jsonl", ".ndjson"), ".json"
_NONE = object()


def sniff_kind(kind: str, file: Path, label: str, options: ReadOptions) -> str:
    """The kind of a file: JSON whose ending says the other of the two is found by its first two lines."""
    if kind not in (*LINES, WHOLE):
        return kind
    found = (line.content.strip() for line in read_lines(file, label, options=options))
    first, *rest = [*islice((line for line in found if line), 2)] or [b""]
    if kind == WHOLE:
        rows = bool(rest) and all(isinstance(_value(line), dict) for line in (first, *rest))
        return LINES[0] if rows else kind
    return WHOLE if _is_document(first, rest[0] if rest else b"") else kind


def _is_document(first: bytes, second: bytes) -> bool:
    """Whether a file is a list, objects over several lines, or objects with commas between them."""
    value = _value(first)
    if first.startswith(b"["):
        if value is _NONE:
            return not _is_too_deep(first)
        return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)
    if not first.startswith(b"{") or value is not _NONE:
        return False
    if first.endswith(b",") and isinstance(_value(first[:-1]), dict):
        return True
    return _is_cut(first) and bool(second) and _value(second) is _NONE


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON value that goes on."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _is_too_deep(line: bytes) -> bool:
    """Whether a line nests deeper than the parser follows: a bad row, and no beginning of a document."""
    try:
        json.loads(line)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False


def _value(line: bytes) -> Any:
    """The JSON value on a line, or ``_NONE``."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _NONE
