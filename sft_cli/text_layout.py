"""Lay out text for a terminal: wrap lines at words, color them, and split tables into blocks that fit."""

import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from typing import IO

COLORS = {"red": "\x1b[1;31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "cyan": "\x1b[36m"}
RESET = "\x1b[0m"
PIPED_WIDTH = 120
"""Columns of a table if the output is not a terminal."""
LABEL_WIDTH = 10
"""Columns of the label at the start of most lines: ``data      ``."""
COLUMN_GAP = 3
"""Spaces between two columns of a table."""
MAX_WORD_COLUMN = 36
"""Largest width of a text column for one long word, such as a path; longer words are wrapped."""
# A command or row to paste is not broken, nor a number from its unit.
_PATH, _OPTION = r"[\w.+-]*/[\w./+-]*\w", r"--?[a-z-]+(?:\ [\w./+-]*\w)?"
_COMMAND = rf"""sft\ [a-z]+(?:\ (?:[\w.+-]+=(?:'[^']*'|"[^"]*"|\S)*|'[^']*'|{_PATH}|{_OPTION}))+"""
_ROW = r"""\{".*\}"""
_PIECE = re.compile(rf"(?P<space>\s*)(?P<word>{_COMMAND}|{_ROW}|\(?[\d.,]*\d\ [A-Za-z%/]+\S*|\S+)")
_LABELS = re.compile(r"^(error:|warning:|  fix:|   or:)", re.MULTILINE)
_LABEL_COLORS = {"error:": "red", "warning:": "yellow", "  fix:": "cyan", "   or:": "cyan"}


def supports_color(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal with colors, and the user wants them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colorize(text: str, color: str) -> str:
    """Return the text in a color."""
    return f"{COLORS[color]}{text}{RESET}"


def colorize_labels(text: str) -> str:
    """Color ``error:``, ``warning:``, ``fix:`` and ``or:`` at the start of lines."""
    return _LABELS.sub(lambda found: colorize(found[0], _LABEL_COLORS[found[0]]), text)


def terminal_width(stream: IO[str]) -> int | None:
    """Return the width of a terminal; None for any other stream."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def display_width(text: str) -> int:
    """Return the terminal columns of a text; East Asian characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )  # fmt: skip


def fit_width(text: str, width: int) -> str:
    """Return the start of a line that fits; a line that is cut ends with ``…``."""
    if display_width(text) <= width:
        return text
    kept = text[: max(0, width - 1)]
    while kept and display_width(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"


def wrap(text: str, width: int, indent: int | None = None) -> str:
    """Wrap every line of the text at spaces.

    A word longer than a line (a path, a command to paste) is not broken, so that the terminal copies it whole.

    Args:
        text: One or more lines.
        width: Columns.
        indent: Spaces before the continuation of a line; None uses the width of its label, or its own indentation.
    """
    return "\n".join(part for line in text.split("\n") for part in _wrap_line(line, width, indent))


def _wrap_line(line: str, width: int, indent: int | None) -> list[str]:
    """Wrap one line."""
    if display_width(line) <= width:
        return [line]
    if indent is None:
        labelled = (
            line[LABEL_WIDTH - 1 : LABEL_WIDTH] == " "
            and line[:1].strip()
            and line[LABEL_WIDTH : LABEL_WIDTH + 1].strip()
        )
        indent = LABEL_WIDTH if labelled else len(line) - len(line.lstrip())
    lines, current = list[str](), ""
    for piece in _PIECE.finditer(line):
        longer = current + piece["space"] + piece["word"]
        if current.strip() and display_width(longer) > width:
            lines.append(current)
            longer = " " * indent + piece["word"]
        current = longer
    return [*lines, current]


def table_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> list[
    list[tuple[int, int]]
]:  # fmt: skip
    """Split the columns of a table into blocks that fit, each as ``(index of the column, its width)``.

    Numbers and words are only broken if they are wider than a line. The first column is part of every block.

    Args:
        columns: The headings; they may be broken at spaces.
        rows: The cells.
        numeric: Whether a column holds numbers, which are not broken.
        width: Columns of the terminal.
    """
    natural, minimum = list[int](), list[int]()
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows]
        longest = max(map(display_width, [*cells, name]), default=1)
        words = [word for text in [name, *([] if numeric[index] else cells)] for word in text.split()]
        floor = max(map(display_width, words), default=1)
        floor = max(floor, *map(display_width, cells)) if numeric[index] and cells else min(floor, MAX_WORD_COLUMN)
        natural.append(longest)
        minimum.append(max(1, min(floor, width)))
    blocks: list[list[int]] = [[]]
    for index in range(len(columns)):
        used = sum(minimum[column] + COLUMN_GAP for column in blocks[-1])
        if blocks[-1] and used + minimum[index] > width:
            blocks.append([0] if minimum[0] + COLUMN_GAP + minimum[index] <= width else [])
        blocks[-1].append(index)
    return [_widths(block, natural, minimum, width) for block in blocks]


def _widths(block: Sequence[int], natural: Sequence[int], minimum: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Return the columns of a block with their widths; remaining space goes to the leftmost columns."""
    remaining = width - sum(minimum[column] for column in block) - COLUMN_GAP * (len(block) - 1)
    widths = []
    for column in block:
        extra = max(0, min(natural[column] - minimum[column], remaining))
        remaining -= extra
        widths.append((column, minimum[column] + extra))
    return widths
