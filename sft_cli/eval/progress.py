"""How far an evaluation is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sft_cli.console import say, speaks

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""
SECONDS = 20
"""Between two lines when piped."""


@contextmanager
def shown(label: str) -> Iterator[Progress]:
    """A progress that a person sees under ``label``; short work prints nothing when piped."""
    if sys.stdout.isatty() and speaks():
        from rich.progress import Progress as Bar

        with Bar(transient=True) as bar:
            task = bar.add_task(label)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            say(f"{label:<9} {done:,} of {total:,}")

    yield line
