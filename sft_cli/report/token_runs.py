"""The tokens of a row as the page shows them: runs of one loss, what is long and without loss folded away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sft_cli.report.token_pieces import Excerpt, Loss, TextPiece

LONG = 160
"""Tokens without loss that are shown in one piece; of more, the middle is folded."""
BEFORE, BEHIND = 48, 24
"""Tokens without loss that stay in view before and after what is trained."""


@dataclass(frozen=True, slots=True)
class LossRun:
    """Neighbouring pieces with the same loss.

    Attributes:
        loss: Whether none, some or all of their tokens carry loss.
        pieces: The pieces.
        folded: Tokens of the run, where it is folded away; 0 where it is in view.
        num_hidden: Tokens left out before it.
        hidden_trained: Those of them that carry loss.
    """

    loss: Loss
    pieces: list[TextPiece]
    folded: int = 0
    num_hidden: int = 0
    hidden_trained: int = 0


def loss_runs(stretches: Sequence[Excerpt]) -> list[LossRun]:
    """The runs of a row, in order. A row without any loss is shown as it is."""
    trained = any(piece.num_trained for stretch in stretches for piece in stretch.pieces)
    made = list[LossRun]()
    for stretch in stretches:
        groups = [(loss, list(group)) for loss, group in groupby(stretch.pieces, attrgetter("loss"))]
        hidden = (stretch.num_hidden, stretch.hidden_trained)
        for place, (loss, pieces) in enumerate(groups):
            kept = BEHIND if place else 0, BEFORE if place + 1 < len(groups) else 0
            parts = _fold_long_parts(pieces, *kept) if loss == "none" and trained else [(pieces, False)]
            for part, fold in parts:
                made.append(LossRun(loss, part, _num_tokens(part) if fold else 0, *hidden))
                hidden = (0, 0)
    return made


def _fold_long_parts(pieces: list[TextPiece], behind: int, before: int) -> Iterator[tuple[list[TextPiece], bool]]:
    """Pieces without loss in parts, each with whether it is folded.

    Args:
        pieces: The pieces.
        behind: Tokens at their beginning that stay in view, since what is trained ends there.
        before: Tokens at their end that stay in view, since what is trained begins there.
    """
    if _num_tokens(pieces) <= LONG:
        yield pieces, False
        return
    first, last = 0, len(pieces)
    while behind > 0:
        behind -= pieces[first].num_ids
        first += 1
    while before > 0:
        last -= 1
        before -= pieces[last].num_ids
    for part, fold in ((pieces[:first], False), (pieces[first:last], True), (pieces[last:], False)):
        if part:
            yield part, fold


def _num_tokens(pieces: Sequence[TextPiece]) -> int:
    """Tokens of some pieces."""
    return sum(piece.num_ids for piece in pieces)
