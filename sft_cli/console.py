"""What a person sees: lines, tables and progress; plain text when the output is not a terminal. A copy can be kept."""

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sft_cli import text_layout
from sft_cli.escape import escape_control
from sft_cli.utils.text import duration

_speaks = True


class Transcript:
    """What is shown, kept as plain text: in memory until its file is known, then in the file line by line."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean, self._waiting, self._file = clean, list[str](), None

    def add(self, text: str) -> None:
        """Keep a text; where the disk refuses, the screen still has it."""
        self._waiting.append(self._clean(escape_control(text)) + "\n")
        if self._file is not None:
            with suppress(OSError), self._file.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.writelines(self._waiting)
            self._waiting.clear()

    def keep_in(self, file: Path) -> None:
        """Write what was shown so far, and from now on every text, to the end of a file."""
        self._file = file


_transcript: Transcript | None = None


@contextmanager
def recorded(command: str, clean: Callable[[str], str]) -> Iterator[None]:
    """Keep a transcript of what is shown within; ``keep_in`` says where.

    Args:
        command: What was typed, its first line.
        clean: Takes secrets out of a text.
    """
    global _transcript
    _transcript = Transcript(clean)
    _transcript.add(f"$ {command}  # {time.strftime('%Y-%m-%d %H:%M:%S %z')}")
    try:
        yield
    finally:
        _transcript = None


def keep_in(file: Path) -> None:
    """Keep the transcript in this file from now on, if there is one."""
    if _transcript is not None and _speaks:
        _transcript.keep_in(file)


def note(text: str) -> None:
    """A line for the transcript alone."""
    if _transcript is not None and _speaks:
        _transcript.add(text)


_status_shown = False


def status(text: str) -> None:
    """Show on the last line of a terminal what is going on; the next line that is printed takes its place."""
    global _status_shown
    if not _speaks or not sys.stderr.isatty():
        return
    sys.stderr.write(f"\r\x1b[2K{escape_control(text)[: shutil.get_terminal_size().columns - 1]}")
    sys.stderr.flush()
    _status_shown = True


def clear_status() -> None:
    """Take the last line away."""
    global _status_shown
    if _status_shown:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _status_shown = False


def bar(share: float, width: int = 20) -> str:
    """``[=====     ]``."""
    return f"[{'=' * round(width * min(1.0, share)):<{width}}]"


def mute() -> None:
    """Say nothing from now on: another process of the same run speaks. Errors are told all the same."""
    global _speaks
    _speaks = False


def speaks() -> bool:
    """Whether this process is the one that a person hears."""
    return _speaks


def say(text: str = "", *, indent: int | None = None, colour: str = "") -> None:
    """Print lines on standard output, at once; what would steer the terminal is spelled out.

    A terminal gets them wrapped at words; a pipe gets them as they are.

    Args:
        text: One or more lines.
        indent: Spaces before what continues a wrapped line; None suits lines with and without a label.
        colour: Of the first word, where the terminal shows colours.
    """
    if not _speaks:
        return
    note(text)
    clear_status()
    shown = escape_control(text)
    if (width := text_layout.terminal_width(sys.stdout)) is not None:
        shown = text_layout.wrap(shown, width, indent)
    if text_layout.supports_color(sys.stdout):
        first, space, rest = shown.partition(" ")
        shown = f"{text_layout.colorize(first, colour)}{space}{rest}" if colour else text_layout.colorize_labels(shown)
    print(shown, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print an aligned table: numbers right, text left; one too wide for the terminal continues below itself."""
    if not _speaks:
        return
    note(_drawn(columns, rows, text_layout.PIPED_WIDTH).rstrip("\n"))
    clear_status()
    print(_drawn(columns, rows, text_layout.terminal_width(sys.stdout) or text_layout.PIPED_WIDTH), end="", flush=True)


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> str:
    """The lines of a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = [all(isinstance(row[place], int | float) for row in rows) for place in range(len(columns))]
    cells = [[escape_control(_cell(value)) for value in row] for row in rows]
    drawn = Console(file=io.StringIO(), width=width, color_system=None)
    for block in text_layout.table_blocks(columns, cells, numeric, width - 2):
        shown = Table(box=box.SIMPLE, pad_edge=False)
        for place, size in block:
            justify = "right" if numeric[place] else "left"
            shown.add_column(columns[place], justify=justify, overflow="fold", width=size, vertical="top")
        for row in cells:
            shown.add_row(*(Text(row[place]) for place, _ in block))
        drawn.print(shown)
    assert isinstance(drawn.file, io.StringIO)
    return drawn.file.getvalue()


def counted(number: int, noun: str, nouns: str = "") -> str:
    """``1 row``, ``2,000 rows``, ``1 pass``, ``2 passes``: ``nouns`` is the plural where it is not ``noun`` + s."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


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

    def __init__(self, what: str, total: int | None, before: int, share: float, unit: str) -> None:
        self._what, self._total, self._before, self._done, self._unit = what, total, before, before, unit
        self._share_before = self._share = share
        self._began = self._said = time.perf_counter()
        self._wait = 0.2 if sys.stderr.isatty() else 30.0

    def advance(self, number: int, share: float = 0.0) -> None:
        """Count ``number`` more as done; ``share`` is that of all the work, where nobody knows its whole number."""
        self._done += number
        self._share = max(self._share, share)
        self._show()

    def update(self, done: int, total: int) -> None:
        """Set how many of how many are done; the clock starts with the first call."""
        if self._total is None:
            self._began, self._before = time.perf_counter(), done
        self._done, self._total = done, total
        self._show()

    def _show(self) -> None:
        now = time.perf_counter()
        if not _speaks or now - self._said < self._wait:
            return
        self._said = now
        if sys.stderr.isatty():
            status(self._line(now))
        else:
            print(escape_control(self._line(now)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        clear_status()

    def _line(self, now: float) -> str:
        """``encode    [=====>    ] 40,000 of 100,000 rows, 9,100 rows/s, 7 s left``."""
        spent, total = now - self._began, self._total
        counted = f"{self._done:,}" if total is None else f"{self._done:,} of {total:,}"
        counted = f"{counted} {self._unit}"
        if self._done > self._before:
            counted += f", {(self._done - self._before) / spent:,.0f} {self._unit}/s"
        before = self._share_before if total is None else self._before / max(1, total)
        share = self._share if total is None else min(1.0, self._done / max(1, total))
        if share <= before:
            return f"{self._what:<9} {counted}"
        left = (1 - share) * spent / (share - before)
        return f"{self._what:<9} {bar(share)} {counted}, {duration(left)} left"


@contextmanager
def progress(
    what: str, total: int | None = None, before: int = 0, share: float = 0.0, unit: str = "rows"
) -> Iterator[Progress]:
    """Show a ``Progress`` that is taken away at the end, whatever happens.

    Args:
        what: The work.
        total: How many there are to do, where that is known.
        before: How many of them an earlier run did.
        share: Share of all the work that an earlier run did.
        unit: What is counted.
    """
    shown = Progress(what, total, before, share, unit)
    try:
        yield shown
    finally:
        shown.close()
