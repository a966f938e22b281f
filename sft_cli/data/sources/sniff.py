"""Detect from the content of a JSON file whether it has one row per line or is one document."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from sft_cli.data.sources.lines import read_lines
from sft_cli.data.sources.read_options import ReadOptions

LINES, WHOLE = (".jsonl", ".ndjson"), ".json"
_NONE = object()


def sniff_kind(kind: str, file: Path, label: str, options: ReadOptions) -> str:
    """Return the kind of a file; the first two lines of JSON decide between lines and a document."""
    if kind not in (*LINES, WHOLE):
        return kind
    lines = (line.content.strip() for line in read_lines(file, label, options=options))
    first, *others = [*islice((line for line in lines if line), 2)] or [b""]
    if kind == WHOLE:
        has_rows = bool(others) and all(isinstance(_value(line), dict) for line in (first, *others))
        return LINES[0] if has_rows else kind
    return WHOLE if _is_document(first, others[0] if others else b"") else kind


def _is_document(first: bytes, second: bytes) -> bool:
    """Return whether a file is a list, objects over several lines, or objects with commas between them."""
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
    """Return whether a line is the beginning of a JSON value that continues."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _is_too_deep(line: bytes) -> bool:
    """Return whether a line is nested too deeply for the parser: a bad row, not the beginning of a document."""
    try:
        json.loads(line)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False


def _value(line: bytes) -> Any:
    """Return the JSON value of a line, or ``_NONE``."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _NONE
