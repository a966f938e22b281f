"""Printing a conversation: answers on standard output, everything else on standard error."""

import re
import sys
import textwrap
from collections.abc import Sequence

from sft_cli import text_layout
from sft_cli.escape import escape_control
from sft_cli.progress import clear_progress

SIDE_BY_SIDE = 100
"""Columns from which two answers are printed next to each other."""
_PARTS = re.compile(r"\n|[^\S\n]+|\S+")


def note(text: str) -> None:
    """Print a text that is no answer on standard error, wrapped at words on a terminal."""
    clear_progress()
    shown = escape_control(text)
    if (width := text_layout.terminal_width(sys.stderr)) is not None:
        shown = text_layout.wrap(shown, width)
    print(shown, file=sys.stderr, flush=True)


class AnswerWriter:
    """Writes the pieces of one answer to standard output.

    A terminal breaks lines between words, and does not show line breaks before the first word.

    Args:
        label: Text before the answer.
    """

    def __init__(self, label: str = "") -> None:
        self._width = text_layout.terminal_width(sys.stdout)
        self._column, self._waiting, self._begun = len(label), "", False
        self.text = ""
        sys.stdout.write(label)

    def write(self, piece: str) -> None:
        """Write a piece; on a terminal its last word waits until it is complete."""
        self.text += piece
        if self._width is None:
            sys.stdout.write(escape_control(piece))
        else:
            *parts, self._waiting = _PARTS.findall(self._waiting + piece) or [""]
            for part in parts:
                self._put(part, self._width)
        sys.stdout.flush()

    def close(self) -> None:
        """Write what waits and end the line."""
        if self._width is not None and self._waiting.strip():
            self._put(self._waiting, self._width)
        sys.stdout.write("\n")
        sys.stdout.flush()

    def _put(self, part: str, width: int) -> None:
        """Write a word, spaces or the end of a line."""
        self._begun = self._begun or not part.isspace()
        if not self._begun:
            return
        shown = escape_control(part)
        size = text_layout.display_width(shown)
        if part == "\n":
            self._column = 0
        elif self._column + size > width and self._column:
            sys.stdout.write("\n")
            self._column = 0
            if part.isspace():
                return
        sys.stdout.write(shown)
        self._column += 0 if part == "\n" else size


def can_show_side_by_side() -> bool:
    """Return whether standard output is a terminal that is wide enough for two columns."""
    width = text_layout.terminal_width(sys.stdout)
    return width is not None and width >= SIDE_BY_SIDE


def print_side_by_side(titles: Sequence[str], texts: Sequence[str]) -> None:
    """Print two texts in columns."""
    size = ((text_layout.terminal_width(sys.stdout) or SIDE_BY_SIDE) - 3) // 2
    columns = [
        [title, *_lines(escape_control(text).strip("\n"), size)] for title, text in zip(titles, texts, strict=True)
    ]
    height = max(len(column) for column in columns)
    for row in zip(*[column + [""] * (height - len(column)) for column in columns], strict=True):
        left, right = row
        print(f"{left}{' ' * (size - text_layout.display_width(left))} | {right}".rstrip())
    sys.stdout.flush()


def _lines(text: str, size: int) -> list[str]:
    """Return a text wrapped to columns, its own line breaks kept."""
    return [part for line in text.split("\n") for part in textwrap.wrap(line, size, drop_whitespace=False) or [""]]
