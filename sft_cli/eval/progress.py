"""How far an evaluation is: the last line of a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sft_cli.console import bar, clear_status, say, status

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""
SECONDS = 20
"""Between two lines when piped."""


@contextmanager
def shown(label: str) -> Iterator[Progress]:
    """A progress that a person sees under ``label``; short work prints nothing when piped."""
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if sys.stdout.isatty():
            status(f"{label:<9} {bar(done / max(1, total))} {done:,} of {total:,}")
        elif time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            say(f"{label:<9} {done:,} of {total:,}")

    try:
        yield line
    finally:
        clear_status()
