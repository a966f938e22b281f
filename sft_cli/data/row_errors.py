"""What can be wrong with one row, and the words that errors share."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError


class RowError(SftError):
    """A row that cannot be used. ``data.on_bad_row`` decides whether it stops the run.

    Attributes:
        reason: The kind of problem in a few words, the same for all rows that share it; the ledger counts by it.
        row: The row as JSON, cut; empty where it could not be read at all.
    """

    def __init__(self, *, where: str, reason: str, problem: str, fix: str) -> None:
        super().__init__(where=where, problem=_writable(problem), fix=_writable(fix))
        self.reason, self.row = _writable(reason), ""


class RowExcluded(RowError):
    """A row that the config leaves out on purpose (a tree in another language): counted, never a reason to stop.

    Attributes:
        by: What left it out, for the ledger: ``tree``, ``chosen``.
    """

    def __init__(self, *, where: str, reason: str, problem: str, fix: str, by: str = "tree") -> None:
        super().__init__(where=where, reason=reason, problem=problem, fix=fix)
        self.by = by


def _writable(text: str) -> str:
    """The text with halves of characters, which rows may hold and files may not, spelled out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def short_json(value: Any, limit: int = 2000) -> str:
    """A value as JSON in at most ``limit`` characters, for people to read."""
    text = _writable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def short_repr(value: Any, limit: int = 60) -> str:
    """``repr(value)`` in at most ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def format_list(names: Iterable[str], limit: int = 8) -> str:
    """The names in their order, separated by commas; what is beyond ``limit`` is counted."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def damaged_data_fix(directory: Path) -> str:
    """What to do about a prepared directory that is damaged; nothing is thrown away."""
    here = shlex.quote(str(directory))
    return f"move it away, and sft prepare makes it again: mv {here} {shlex.quote(f'{directory}.damaged')}"
