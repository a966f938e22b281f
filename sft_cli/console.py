"""What a person sees: lines, tables and progress; plain text when the output is not a terminal."""

import sys
from collections.abc import Sequence
from typing import Any


def say(text: str = "") -> None:
    """One line on standard output, at once, also when piped."""
    print(text, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """An aligned table; numbers stand right, text stands left and is wrapped to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False).print(shown)


def gib(size: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _cell(value: Any) -> str:
    """A value as a cell: floats with four significant digits, thousands separated."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else ("yes" if value else "no")
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
