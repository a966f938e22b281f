"""What a person sees: lines, tables and progress; plain text when the output is not a terminal."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sft_cli.visible import visible

_speaks = True


def mute() -> None:
    """Say nothing from now on: another process of the same run speaks. Errors are told all the same."""
    global _speaks
    _speaks = False


def speaks() -> bool:
    """Whether this process is the one that a person hears."""
    return _speaks


def say(text: str = "") -> None:
    """One line on standard output, at once, also when piped; what would steer the terminal is spelled out."""
    if _speaks:
        print(visible(text), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """An aligned table; numbers stand right, text stands left and is wrapped to the terminal."""
    if not _speaks:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(visible(_cell(value))) for value in row))
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


class Progress:
    """How far a long piece of work is: a bar on a terminal, a line now and then in a log; nothing if it is short."""

    def __init__(self, what: str, total: int | None, before: int, share: float) -> None:
        self._what, self._total, self._before, self._done = what, total, before, before
        self._share_before = self._share = share
        self._began = self._said = time.perf_counter()
        self._wait = 0.2 if sys.stderr.isatty() else 30.0

    def advance(self, rows: int, share: float = 0.0) -> None:
        """So many rows more are done; ``share`` of all the work is, where nobody knows how many rows there will be."""
        self._done += rows
        self._share = max(self._share, share)
        now = time.perf_counter()
        if not _speaks or now - self._said < self._wait:
            return
        self._said = now
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[2K{visible(self._line(now))[: columns - 1]}")
            sys.stderr.flush()
        else:
            print(visible(self._line(now)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if sys.stderr.isatty() and self._said != self._began:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        """``encode    [=====>    ] 40,000 of 100,000 rows, 9,100 rows/s, 7 s left``."""
        spent, total = now - self._began, self._total
        counted = f"{self._done:,} rows" if total is None else f"{self._done:,} of {total:,} rows"
        counted += f", {(self._done - self._before) / spent:,.0f} rows/s"
        before = self._share_before if total is None else self._before / max(1, total)
        share = self._share if total is None else min(1.0, self._done / max(1, total))
        if share <= before:
            return f"{self._what:<9} {counted}"
        left = (1 - share) * spent / (share - before)
        return f"{self._what:<9} [{'=' * round(20 * share):<20}] {counted}, {_span(left)} left"


def _span(seconds: float) -> str:
    """``7 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(what: str, total: int | None = None, before: int = 0, share: float = 0.0) -> Iterator[Progress]:
    """A ``Progress`` that is taken away at the end, whatever happens.

    ``before`` rows, or ``share`` of all the work, were done by an earlier run.
    """
    shown = Progress(what, total, before, share)
    try:
        yield shown
    finally:
        shown.close()
