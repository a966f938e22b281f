"""The progress of a command on standard error: a status line or bars on a terminal, periodic lines in a log."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sft_cli.escape import escape_control
from sft_cli.text_layout import display_width, fit_width
from sft_cli.utils.text import duration

TERMINAL_SECONDS, LOG_SECONDS = 0.1, 30.0
"""Time between two updates of a bar, and between two lines in a log."""

_enabled = True
_status_shown = False
_bars: Any = None
_block: list[int] = []


def disable() -> None:
    """Show no progress from now on, because another process of the same run shows it."""
    global _enabled
    _enabled = False


def has_terminal() -> bool:
    """Whether standard error is a terminal that can redraw its last line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def status(text: str) -> None:
    """Show what is going on in the last line of a terminal; the next printed line replaces it."""
    global _status_shown
    if not _enabled or not has_terminal():
        return
    clear_progress()
    sys.stderr.write(escape_control(text)[: shutil.get_terminal_size().columns - 1])
    sys.stderr.flush()
    _status_shown = True


def clear_progress() -> None:
    """Remove the status line and the bars, so that a line can be printed; the next update draws the bars again."""
    global _status_shown
    if _status_shown:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _status_shown = False
    if _block:
        columns = shutil.get_terminal_size().columns
        rows = sum(max(1, -(-width // columns)) for width in _block)  # a narrower terminal has wrapped them
        sys.stderr.write(f"\x1b[{rows - 1}A" * (rows > 1) + "\r\x1b[J")
        sys.stderr.flush()
        _block.clear()
    if _bars is not None:
        _bars.stop()


def draw_block(lines: Sequence[str]) -> None:
    """Draw some lines at the bottom of a terminal, cut to its width, in place of those drawn before.

    Two columns stay free for the ``^C`` of a terminal, which would otherwise move the lines.
    """
    if not _enabled or not has_terminal():
        return
    clear_progress()
    size = shutil.get_terminal_size()
    shown = [fit_width(escape_control(line), size.columns - 3) for line in lines[: max(1, size.lines - 1)]]
    sys.stderr.write("\n".join(shown))
    sys.stderr.flush()
    _block.extend(display_width(line) for line in shown)


def text_bar(share: float, width: int = 20) -> str:
    """Return a bar of plain characters: ``[=====     ]``."""
    return f"[{'=' * round(width * min(1.0, share)):<{width}}]"


class Progress:
    """The progress of one long task: a bar on a terminal, a periodic line in a log; nothing if the task is short.

    Args:
        task: The name of the task.
        total: The number of units to do, if it is known.
        before: The number of units that an earlier run did.
        share: The share of the task that an earlier run did, if the number of units is not known.
        unit: The name of the units, plural.
    """

    def __init__(
        self, task: str, total: int | None = None, before: int = 0, share: float = 0.0, unit: str = "rows"
    ) -> None:
        self._task, self._total, self._before, self._done, self._unit = task, total, before, before, unit
        self._share_before = self._share = share
        self._began = self._shown = time.perf_counter()
        self._bar: Any = None

    def advance(self, number: int, share: float = 0.0) -> None:
        """Count ``number`` more units as done; ``share`` of the task is done, where the total is not known."""
        self._done += number
        self._share = max(self._share, share)
        self._show()

    def update(self, done: int, total: int) -> None:
        """Set how many units of how many are done; the speed is that since the first call."""
        if self._total is None:
            self._began, self._before = time.perf_counter(), done
        self._done, self._total = done, total
        self._show()

    def draw(self, share: float | None, left: str, detail: str) -> None:
        """Draw the bar with texts of the caller on a terminal, if enough time has passed since the last time.

        Args:
            share: Share of the task that is done; None if it is not known.
            left: The remaining time.
            detail: Text after it, cut to the width of the terminal.
        """
        if has_terminal() and self._is_due(TERMINAL_SECONDS):
            self._draw(share, left, detail)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            clear_progress()
            _bars.remove_task(self._bar)
            self._bar = None

    def _show(self) -> None:
        """Draw the bar or print a line, if enough time has passed since the last time."""
        if not self._is_due(TERMINAL_SECONDS if has_terminal() else LOG_SECONDS):
            return
        share, left, counts = self._state(self._shown)
        if has_terminal():
            self._draw(share, left, counts)
        else:
            start = f"{self._task:<9} {counts}" if share is None else f"{self._task:<9} {text_bar(share)} {counts}"
            print(escape_control(f"{start}, {left}" if left else start), file=sys.stderr, flush=True)

    def _is_due(self, seconds: float) -> bool:
        """Whether so many seconds have passed since this was last true."""
        now = time.perf_counter()
        if not _enabled or now - self._shown < seconds:
            return False
        self._shown = now
        return True

    def _draw(self, share: float | None, left: str, detail: str) -> None:
        if _status_shown or _block:
            clear_progress()
        bars, total = _shared_bars(), None if share is None else 1.0
        fields = {"left": escape_control(left), "detail": escape_control(detail)}
        if self._bar is None:
            self._bar = bars.add_task(escape_control(self._task), total=total, completed=share or 0, **fields)
        else:
            bars.update(self._bar, total=total, completed=share or 0, **fields)
        bars.start()
        bars.refresh()

    def _state(self, now: float) -> tuple[float | None, str, str]:
        """The share that is done, the remaining time, and ``40,000 of 100,000 rows, 9,100 rows/s``."""
        spent, total = now - self._began, self._total
        counts = f"{self._done:,}" if total is None else f"{self._done:,} of {total:,}"
        counts = f"{counts} {self._unit}"
        if self._done > self._before:
            counts += f", {(self._done - self._before) / spent:,.0f} {self._unit}/s"
        before = self._share_before if total is None else self._before / max(1, total)
        share = self._share if total is None else min(1.0, self._done / max(1, total))
        if share <= before:
            return None, "", counts
        return share, f"{duration((1 - share) * spent / (share - before))} left", counts


@contextmanager
def progress(
    task: str, total: int | None = None, before: int = 0, share: float = 0.0, unit: str = "rows"
) -> Iterator[Progress]:
    """Show a ``Progress`` (its arguments) and remove it at the end, also after an error."""
    shown = Progress(task, total, before, share, unit)
    try:
        yield shown
    finally:
        shown.close()


def _shared_bars() -> Any:
    """The bars of this process, made once; without rich's thread, which could draw into printed lines."""
    global _bars
    if _bars is None:
        _bars = _make_bars()
    return _bars


def _make_bars() -> Any:
    """The display of rich with our columns."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Terminal(Console):
        def show_cursor(self, show: bool = True) -> bool:
            """Leave the cursor visible: a killed process could not restore it."""
            return False

    class Detail(ProgressColumn):
        def render(self, task: Any) -> Text:
            """Return the text that is cut where the terminal ends."""
            return Text(task.fields["detail"], no_wrap=True, overflow="ellipsis")

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(12, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
        TextColumn("{task.fields[left]}", markup=False),
        Detail(),
        console=Terminal(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
