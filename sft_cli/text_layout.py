"""Text laid out for a terminal: lines wrapped at words, colours, and tables cut into blocks that fit."""

import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from typing import IO

COLOURS = {"red": "\x1b[1;31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "cyan": "\x1b[36m"}
RESET = "\x1b[0m"
PIPED = 120
"""Columns of a table whose reader is not a terminal."""
LABEL = 10
"""Columns of the label that most lines begin with: ``data      ``."""
GAP = 3
"""Columns between two columns of a table."""
LONGEST_WORD = 36
"""A column of text is made no wider for one long word, such as a path; it is folded instead."""
# A command or a row to paste stays in one piece, and a number with its unit.
_COMMAND = r"""sft\ [a-z]+(?:\ (?:[\w.+-]+=(?:'[^']*'|"[^"]*"|\S)*|'[^']*'|--?[a-z-]+))+"""
_ROW = r"""\{".*\}"""
_PIECE = re.compile(rf"(?P<space>\s*)(?P<word>{_COMMAND}|{_ROW}|\(?[\d.,]*\d\ [A-Za-z%/]+\S*|\S+)")
_MARKED = re.compile(r"^(error:|warning:|  fix:)", re.MULTILINE)
_MARKS = {"error:": "red", "warning:": "yellow", "  fix:": "cyan"}


def has_colours(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that shows colours and whose user wants them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str) -> str:
    """The text in a colour."""
    return f"{COLOURS[colour]}{text}{RESET}"


def marked(text: str) -> str:
    """The text with ``error:``, ``warning:`` and ``fix:`` at the beginning of its lines in colour."""
    return _MARKED.sub(lambda found: painted(found[0], _MARKS[found[0]]), text)


def columns_of(stream: IO[str]) -> int | None:
    """The width of a terminal; None for anything else."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def width_of(text: str) -> int:
    """Columns that a text takes; East Asian characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text
    )  # fmt: skip


def wrapped(text: str, width: int, indent: int | None = None) -> str:
    """The text with every line broken at spaces to fit.

    What is longer than a line on its own (a path, a command to paste) is left to the terminal, which copies it whole.

    Args:
        text: One or more lines.
        width: Columns.
        indent: Spaces before the continuation of a line; None takes its label's width, or its own indentation.
    """
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width, indent))


def _broken(line: str, width: int, indent: int | None) -> list[str]:
    """One line as those that it becomes."""
    if width_of(line) <= width:
        return [line]
    if indent is None:
        labelled = line[LABEL - 1 : LABEL] == " " and line[:1].strip() and line[LABEL : LABEL + 1].strip()
        indent = LABEL if labelled else len(line) - len(line.lstrip())
    made, current = list[str](), ""
    for piece in _PIECE.finditer(line):
        longer = current + piece["space"] + piece["word"]
        if current.strip() and width_of(longer) > width:
            made.append(current)
            longer = " " * indent + piece["word"]
        current = longer
    return [*made, current]


def table_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> list[
    list[tuple[int, int]]
]:  # fmt: skip
    """The columns of a table in blocks that fit side by side, each as ``(number of the column, its width)``.

    No number and no word is broken unless it alone is too long. The first column begins every block.

    Args:
        columns: The headings; they may be broken at spaces.
        rows: The cells.
        numeric: Whether a column holds numbers, which are not broken.
        width: Columns of the terminal.
    """
    natural, least = list[int](), list[int]()
    for place, name in enumerate(columns):
        cells = [row[place] for row in rows]
        longest = max(map(width_of, [*cells, name]), default=1)
        words = [word for text in [name, *([] if numeric[place] else cells)] for word in text.split()]
        floor = max(map(width_of, words), default=1)
        floor = max(floor, *map(width_of, cells)) if numeric[place] and cells else min(floor, LONGEST_WORD)
        natural.append(longest)
        least.append(max(1, min(floor, width)))
    blocks: list[list[int]] = [[]]
    for place in range(len(columns)):
        taken = sum(least[one] + GAP for one in blocks[-1])
        if blocks[-1] and taken + least[place] > width:
            blocks.append([0] if least[0] + GAP + least[place] <= width else [])
        blocks[-1].append(place)
    return [_spread(block, natural, least, width) for block in blocks]


def _spread(block: Sequence[int], natural: Sequence[int], least: Sequence[int], width: int) -> list[tuple[int, int]]:
    """The columns of a block with the widths they get: what is left goes to the left first."""
    left = width - sum(least[one] for one in block) - GAP * (len(block) - 1)
    made = []
    for one in block:
        more = max(0, min(natural[one] - least[one], left))
        left -= more
        made.append((one, least[one] + more))
    return made
