"""The tokens of a row as the page shows them: runs of one loss, what is long and without loss folded away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sft_cli.report.token_pieces import Loss, Piece, Stretch

LONG = 160
"""Tokens without loss that are shown in one piece; of more, the middle is folded."""
BEFORE, BEHIND = 48, 24
"""Tokens without loss that stay in view before and after what is trained."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pieces with the same loss.

    Attributes:
        loss: Whether none, some or all of their tokens carry loss.
        pieces: The pieces.
        folded: Tokens of the run, where it is folded away; 0 where it is in view.
        num_hidden: Tokens left out before it.
        hidden_trained: Those of them that carry loss.
    """

    loss: Loss
    pieces: list[Piece]
    folded: int = 0
    num_hidden: int = 0
    hidden_trained: int = 0


def runs(stretches: Sequence[Stretch]) -> list[Run]:
    """The runs of a row, in order. A row without any loss is shown as it is."""
    trained = any(piece.num_trained for stretch in stretches for piece in stretch.pieces)
    made = list[Run]()
    for stretch in stretches:
        groups = [(loss, list(group)) for loss, group in groupby(stretch.pieces, attrgetter("loss"))]
        hidden = (stretch.num_hidden, stretch.hidden_trained)
        for place, (loss, pieces) in enumerate(groups):
            kept = BEHIND if place else 0, BEFORE if place + 1 < len(groups) else 0
            parts = _folded(pieces, *kept) if loss == "none" and trained else [(pieces, False)]
            for part, fold in parts:
                made.append(Run(loss, part, _size(part) if fold else 0, *hidden))
                hidden = (0, 0)
    return made


def _folded(pieces: list[Piece], behind: int, before: int) -> Iterator[tuple[list[Piece], bool]]:
    """Pieces without loss in parts, each with whether it is folded.

    Args:
        pieces: The pieces.
        behind: Tokens at their beginning that stay in view, since what is trained ends there.
        before: Tokens at their end that stay in view, since what is trained begins there.
    """
    if _size(pieces) <= LONG:
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


def _size(pieces: Sequence[Piece]) -> int:
    """Tokens of some pieces."""
    return sum(piece.num_ids for piece in pieces)
