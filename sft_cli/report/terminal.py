"""Print rows in a terminal: tokens coloured by loss, or with marks if there is no colour."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any

from sft_cli.console import counted
from sft_cli.escape import escape_control, one_line
from sft_cli.report.ledger_view import Line
from sft_cli.report.split_stats import ExampleRow
from sft_cli.report.token_pieces import Excerpt, TextPiece

STYLES = {"all": "green underline", "some": "yellow underline", "none": ""}
SPECIAL, STOP, QUIET = "bold cyan", "bold reverse yellow", "dim"
MARKS = {"all": "⟦⟧", "some": "⦅⦆"}
"""Marks around tokens of which all, or some, carry loss."""
SPECIAL_MARKS = "⟪⟫"
_ESCAPED_MARKS = str.maketrans({mark: f"⟨U+{ord(mark):04X}⟩" for mark in "".join(MARKS.values()) + SPECIAL_MARKS})
PLAIN_LEGEND = (
    "⟦carries loss⟧  no loss  ⟪special token⟫  ⟪stop: trained stop token⟫  "
    "⦅character with loss on some of its tokens⦆  ↵ newline"
)


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Stop printing without an error when the reader of a pipe (``| head``) has closed it."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class RowPrinter:
    """Prints rows, after a legend of the colours or marks."""

    def __init__(self, plain: bool) -> None:
        from rich.console import Console
        from rich.text import Text

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # data has characters that some terminals cannot print
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._text: type[Text] = Text
        self._plain = plain or not self._console.is_terminal or self._console.is_dumb_terminal
        if self._plain:
            self._print([(PLAIN_LEGEND, "")])
        else:
            self._print([
                ("carries loss", STYLES["all"]), ("  no loss  ", ""), ("special token", SPECIAL), ("  ", ""),
                ("trained stop token", STOP), ("  ↵ newline", QUIET),
            ])  # fmt: skip

    def _print(self, parts: list[tuple[str, str]]) -> None:
        """Print styled text as whole lines."""
        if self._plain:
            print("".join(text for text, _ in parts), flush=True)
        else:
            joined = [("".join(text for text, _ in run), style) for style, run in groupby(parts, itemgetter(1))]
            self._console.print(self._text.assemble(*joined))

    def ledger_line(self, line: Line | None) -> None:
        """Print the ledger line of a row."""
        self._print([])
        if line is None:
            self._print([("the ledger has no line for this row", QUIET)])
            return
        self._print([(one_line(line["where"]), "bold"), (f"  {one_line('  '.join(_ledger_summary(line)))}", "")])
        if line["detail"]:
            self._print([(f"  {one_line(line['detail'])}", "")])

    def dropped(self, text: str) -> None:
        """Print the text of a dropped row."""
        self._print([(f"  {one_line(text)}", QUIET)])

    def example(self, row: ExampleRow, side: str, excerpt: Sequence[Excerpt]) -> None:
        """Print the tokens of an example."""
        share = row.num_trained / len(row.ids) if row.ids else 0.0
        weights = f", weight {', '.join(f'{w:g}' for w in row.weights)}" if row.weights not in ((), (1.0,)) else ""
        counts = f"{len(row.ids):,} tokens, {row.num_trained:,} with loss ({share:.1%}){weights}"
        self._print([(f"{side} {row.index}: {counts}", QUIET)])
        parts, where = list[tuple[str, str]](), "" if side == "train" else f" --split {side}"
        for stretch in excerpt:
            if stretch.num_hidden:
                gap = f"\n… {stretch.num_hidden:,} tokens left out, {stretch.hidden_trained:,} with loss;"
                parts.append((f"{gap} --row {row.index}{where} prints them …\n", QUIET))
            parts += self._parts(stretch.pieces)
        self._print(parts)

    def _parts(self, pieces: list[TextPiece]) -> Iterator[tuple[str, str]]:
        """Yield texts with their styles, or with marks."""
        if self._plain:
            yield format_plain(pieces), ""
            return
        for piece in pieces:
            style = STOP if piece.stop else SPECIAL if piece.special else STYLES[piece.loss]
            if piece.special and piece.num_trained and not piece.stop:
                style += " underline"
            lines = escape_control(piece.text).split("\n")
            for line in lines[:-1]:
                yield line, style
                yield "↵\n", f"{QUIET} {STYLES[piece.loss]}".strip()
            yield lines[-1], style


def format_plain(pieces: list[TextPiece]) -> str:
    """Return the pieces as one text with marks around trained tokens; mark characters of the data are escaped."""
    text, loss = [], "none"
    for piece in pieces:
        if piece.loss != loss:
            text += [MARKS[loss][1] if loss != "none" else "", MARKS[piece.loss][0] if piece.loss != "none" else ""]
            loss = piece.loss
        inner = escape_control(piece.text).translate(_ESCAPED_MARKS).replace("\n", "↵\n")
        if piece.special:
            inner = f"{SPECIAL_MARKS[0]}{'stop: ' if piece.stop else ''}{inner}{SPECIAL_MARKS[1]}"
        text.append(inner)
    text.append(MARKS[loss][1] if loss != "none" else "")
    return "".join(text)


def _ledger_summary(line: Line) -> Iterator[str]:
    """Yield the parts of a ledger line's summary."""
    yield line["source"]
    yield line["split"]
    yield line["fate"].replace("_", " ") + (f": {line['reason']}" if line["reason"] else "")
    optional: dict[str, Any] = {"scores": {}, "tags": {}, "filter": None, "truncated_tokens": 0, **line}
    if optional["filter"]:
        yield f"by {optional['filter']}"
    if line["examples"]:
        copies = f" × {line['copies']}" if line["copies"] != 1 else ""
        yield f"{counted(line['examples'], 'example')}{copies}"
        share = line["trained_tokens"] / line["tokens"] if line["tokens"] else 0.0
        yield f"{line['tokens']:,} tokens, {line['trained_tokens']:,} with loss ({share:.1%})"
    if line["truncated_messages"]:
        yield f"lost its {counted(line['truncated_messages'], 'oldest message')}"
    if optional["truncated_tokens"]:
        yield f"lost its {counted(optional['truncated_tokens'], 'last token')}"
    for name, value in optional["tags"].items():
        yield f"{name}={value}"
    for name, value in optional["scores"].items():
        yield f"score {name}={value:g}"
