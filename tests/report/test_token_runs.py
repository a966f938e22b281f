"""Long runs without loss are folded; the runs contain every token in order."""

import random

import pytest

from sft_cli.report import token_runs as folding
from sft_cli.report.token_pieces import Excerpt, TextPiece
from sft_cli.report.token_runs import AFTER, BEFORE, LONG, loss_runs


def pieces(*lengths: int) -> list[TextPiece]:
    """Return pieces of one token; the counts alternate between pieces without and with loss."""
    return [TextPiece("x", 1, place % 2) for place, length in enumerate(lengths) for _ in range(length)]


def shape(stretches: list[Excerpt]) -> list[tuple[str, int, bool]]:
    """Return loss, length and folding of every run."""
    return [(run.loss, sum(piece.num_ids for piece in run.pieces), run.folded > 0) for run in loss_runs(stretches)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((LONG, 5), [("none", LONG, False), ("all", 5, False)]),
        ((1000, 5), [("none", 1000 - BEFORE, True), ("none", BEFORE, False), ("all", 5, False)]),
        ((0, 5, 1000), [("all", 5, False), ("none", AFTER, False), ("none", 1000 - AFTER, True)]),
        (
            (3, 5, 1000, 2),
            [
                ("none", 3, False), ("all", 5, False), ("none", AFTER, False),
                ("none", 1000 - AFTER - BEFORE, True), ("none", BEFORE, False), ("all", 2, False),
            ],
        ),
        ((1000,), [("none", 1000, False)]),
        ((0, 1000), [("all", 1000, False)]),
    ],
    ids=["short", "beginning", "end", "between", "untrained", "trained"],
)  # fmt: skip
def test_loss_runs_fold_long_runs_without_loss(lengths, expected):
    assert shape([Excerpt(pieces(*lengths))]) == expected


@pytest.mark.parametrize("seed", range(30))
def test_loss_runs_join_to_the_row(seed):
    chance = random.Random(seed)
    stretches = [
        Excerpt(
            [
                TextPiece("x", chance.randint(1, 3), 0) if chance.random() < 0.99 else TextPiece("y", 1, 1)
                for _ in range(n)
            ]
        )
        for n in (chance.randint(0, 900), chance.randint(1, 900))
    ]
    stretches[1] = Excerpt(stretches[1].pieces, 70, 7)
    result = loss_runs(stretches)
    assert [piece for run in result for piece in run.pieces] == [piece for one in stretches for piece in one.pieces]
    assert all(run.folded in (0, sum(piece.num_ids for piece in run.pieces)) for run in result)
    assert [(run.num_hidden, run.hidden_trained) for run in result if run.num_hidden] == [(70, 7)]
    trained = [piece for run in result if not run.folded for piece in run.pieces if piece.num_trained]
    assert trained == [piece for one in stretches for piece in one.pieces if piece.num_trained]


def test_limits_leave_tokens_to_fold():
    assert folding.LONG > folding.BEFORE + folding.AFTER
