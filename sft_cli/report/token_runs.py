"""Group the tokens of a row into runs with the same loss for the page, and fold long runs without loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sft_cli.report.token_pieces import Excerpt, Loss, TextPiece

LONG = 160
"""Tokens without loss that are shown in one piece; the middle of a longer run is folded."""
BEFORE, AFTER = 48, 24
"""Tokens without loss that stay visible before and after trained tokens."""


@dataclass(frozen=True, slots=True)
class LossRun:
    """Neighboring pieces with the same loss.

    Attributes:
        loss: Whether none, some or all of their tokens carry loss.
        pieces: The pieces.
        folded: Tokens of the run if it is folded; 0 if it is visible.
        num_hidden: Tokens left out before it.
        hidden_trained: Those of them that carry loss.
    """

    loss: Loss
    pieces: list[TextPiece]
    folded: int = 0
    num_hidden: int = 0
    hidden_trained: int = 0


def loss_runs(stretches: Sequence[Excerpt]) -> list[LossRun]:
    """Return the runs of a row, in order. A row without any loss is not folded."""
    trained = any(piece.num_trained for stretch in stretches for piece in stretch.pieces)
    runs = list[LossRun]()
    for stretch in stretches:
        groups = [(loss, list(group)) for loss, group in groupby(stretch.pieces, attrgetter("loss"))]
        hidden = (stretch.num_hidden, stretch.hidden_trained)
        for index, (loss, pieces) in enumerate(groups):
            kept = AFTER if index else 0, BEFORE if index + 1 < len(groups) else 0
            parts = _fold_long_parts(pieces, *kept) if loss == "none" and trained else [(pieces, False)]
            for part, fold in parts:
                runs.append(LossRun(loss, part, _num_tokens(part) if fold else 0, *hidden))
                hidden = (0, 0)
    return runs


def _fold_long_parts(pieces: list[TextPiece], after: int, before: int) -> Iterator[tuple[list[TextPiece], bool]]:
    """Yield pieces without loss in parts, each with whether it is folded.

    Args:
        pieces: The pieces.
        after: Tokens at their beginning that stay visible, after trained tokens.
        before: Tokens at their end that stay visible, before trained tokens.
    """
    if _num_tokens(pieces) <= LONG:
        yield pieces, False
        return
    first, last = 0, len(pieces)
    while after > 0:
        after -= pieces[first].num_ids
        first += 1
    while before > 0:
        last -= 1
        before -= pieces[last].num_ids
    for part, fold in ((pieces[:first], False), (pieces[first:last], True), (pieces[last:], False)):
        if part:
            yield part, fold


def _num_tokens(pieces: Sequence[TextPiece]) -> int:
    """Return the number of tokens of some pieces."""
    return sum(piece.num_ids for piece in pieces)
