"""Printed lines and tables, wrapped and colored on a terminal, and the transcript of a command."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sft_cli import text_layout
from sft_cli.escape import escape_control
from sft_cli.progress import clear_progress, disable

QUIET_LABELS = ("warning:", "error:", "finished", "stopped")
"""Starts of the lines that are printed also after ``be_quiet``."""
_is_printing = True
_is_quiet = False


class Transcript:
    """A plain-text copy of the output, in memory until ``keep_in`` names its file."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean, self._waiting, self._file = clean, list[str](), None

    def add(self, text: str) -> None:
        """Append a text; a disk error is ignored, because the text is also on the screen."""
        self._waiting.append(self._clean(escape_control(text)) + "\n")
        if self._file is not None:
            with suppress(OSError), self._file.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.writelines(self._waiting)
            self._waiting.clear()

    def keep_in(self, file: Path) -> None:
        """Append the text so far, and all later text, to a file."""
        self._file = file


_transcript: Transcript | None = None


@contextmanager
def recorded(command: str, clean: Callable[[str], str]) -> Iterator[None]:
    """Keep a transcript of the output within the context; ``keep_in`` names its file.

    Args:
        command: The command line, first line of the transcript.
        clean: Removes secrets from a text.
    """
    global _transcript
    _transcript = Transcript(clean)
    _transcript.add(f"$ {command}  # {time.strftime('%Y-%m-%d %H:%M:%S %z')}")
    try:
        yield
    finally:
        _transcript = None


def keep_in(file: Path) -> None:
    """Write the transcript to this file, if there is a transcript."""
    if _transcript is not None and _is_printing:
        _transcript.keep_in(file)


def note(text: str) -> None:
    """Add a line to the transcript without printing it."""
    if _transcript is not None and _is_printing:
        _transcript.add(text)


def mute() -> None:
    """Print nothing from now on except errors, because another process of the same run prints."""
    global _is_printing
    _is_printing = False
    disable()


def be_quiet() -> None:
    """Print only warnings, errors and the last result from now on; the transcript has all lines."""
    global _is_quiet
    _is_quiet = True
    disable()


def say(text: str = "", *, indent: int | None = None, colour: str = "", noted: bool = False) -> None:
    """Print lines on standard output and flush it; control characters are escaped, and a terminal wraps at words.

    Args:
        text: One or more lines.
        indent: Spaces before the rest of a wrapped line; None chooses them by whether the line has a label.
        colour: Color of the first word, if the terminal supports colors.
        noted: Whether the transcript has the lines already.
    """
    if not _is_printing:
        return
    if not noted:
        note(text)
    if _is_quiet and not text.startswith(QUIET_LABELS):
        return
    clear_progress()
    shown = escape_control(text)
    if (width := text_layout.terminal_width(sys.stdout)) is not None:
        shown = text_layout.wrap(shown, width, indent)
    if text_layout.supports_color(sys.stdout):
        first, space, rest = shown.partition(" ")
        shown = f"{text_layout.colorize(first, colour)}{space}{rest}" if colour else text_layout.colorize_labels(shown)
    print(shown, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print an aligned table: numbers right, text left; columns that do not fit the terminal continue below."""
    if not _is_printing:
        return
    note(_draw_table(columns, rows, text_layout.PIPED_WIDTH).rstrip("\n"))
    if _is_quiet:
        return
    clear_progress()
    width = text_layout.terminal_width(sys.stdout) or text_layout.PIPED_WIDTH
    print(_draw_table(columns, rows, width), end="", flush=True)


def _draw_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> str:
    """The lines of a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(columns))]
    cells = [[escape_control(_cell(value)) for value in row] for row in rows]
    canvas = Console(file=io.StringIO(), width=width, color_system=None)
    for block in text_layout.table_blocks(columns, cells, numeric, width - 2):
        shown = Table(box=box.SIMPLE, pad_edge=False)
        for column, size in block:
            justify = "right" if numeric[column] else "left"
            shown.add_column(columns[column], justify=justify, overflow="fold", width=size, vertical="top")
        for row in cells:
            shown.add_row(*(Text(row[column]) for column, _ in block))
        canvas.print(shown)
    assert isinstance(canvas.file, io.StringIO)
    return canvas.file.getvalue()


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
