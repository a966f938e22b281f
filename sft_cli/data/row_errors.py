"""Define the errors of single rows, and helpers for the texts of errors."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError


class RowError(SftError):
    """A row that cannot be used. ``data.on_bad_row`` decides whether it stops the run.

    Attributes:
        reason: The kind of problem in a few words that all such rows share; the ledger counts by it.
        row: The row as JSON, truncated; empty if it could not be read.
    """

    def __init__(self, *, where: str, reason: str, problem: str, fix: str) -> None:
        super().__init__(where=where, problem=_writable(problem), fix=_writable(fix))
        self.reason, self.row = _writable(reason), ""


class RowExcluded(RowError):
    """A row that the config leaves out on purpose (a tree in another language): counted, but never an error.

    Attributes:
        by: The setting that left it out, for the ledger: ``tree``, ``chosen``.
    """

    def __init__(self, *, where: str, reason: str, problem: str, fix: str, by: str = "tree") -> None:
        super().__init__(where=where, reason=reason, problem=problem, fix=fix)
        self.by = by


def _writable(text: str) -> str:
    """Return the text with lone surrogates escaped, which rows may hold but files may not."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def short_json(value: Any, limit: int = 2000) -> str:
    """Return a value as JSON in at most ``limit`` characters, for display."""
    text = _writable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def short_repr(value: Any, limit: int = 60) -> str:
    """Return ``repr(value)`` in at most ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def format_list(names: Iterable[str], limit: int = 8) -> str:
    """Return the names separated by commas; those beyond ``limit`` are counted."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def damaged_data_fix(directory: Path) -> str:
    """Return the fix for a damaged prepared directory, which keeps its files."""
    quoted = shlex.quote(str(directory))
    return f"move it away, and sft prepare creates it again: mv {quoted} {shlex.quote(f'{directory}.damaged')}"
