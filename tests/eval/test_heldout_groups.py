"""Losses of held-out rows by turn, length and tag, with intervals."""

import numpy as np
import pytest
import torch

from sft_cli.config.schema.trainer import Reduction
from sft_cli.eval.heldout import heldout_loss
from sft_cli.eval.heldout_groups import group_members, turn_name
from sft_cli.model.head.loss_model import LossModel
from sft_cli.types import Example


def example(length: int, *answers: range, where: str = "r:1") -> Example:
    """Return an example whose tokens of some ranges are trained."""
    weights = [float(any(at in answer for answer in answers)) for at in range(length)]
    return Example(tuple(3 + (7 * at + length) % 200 for at in range(length)), tuple(weights), where, "s")


EXAMPLES = [
    example(20, range(4, 8), range(12, 20)),
    example(70, range(10, 12), range(20, 25), range(30, 70)),
    example(30, range(5, 30)),
]
TAGS = [{"task": "sort"}, {"task": "rhyme", "language": "de"}, {"task": "sort", "language": "en"}]


def token_losses(model, one: Example) -> np.ndarray:
    """Return the loss of predicting each token, from the plain model."""
    ids = torch.tensor([one.input_ids])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()


def test_groups_hold_the_means_of_their_tokens(build, split_of):
    model, split = build(), split_of(EXAMPLES)
    found = heldout_loss(
        LossModel(model, packed=False, chunk=1024), split, reduction=Reduction.token, max_tokens=512, packed=False,
        device=torch.device("cpu"), tags=TAGS,
    )  # fmt: skip
    losses = [token_losses(model, one) for one in EXAMPLES]
    trained = [np.array(one.weights[1:]) > 0 for one in EXAMPLES]

    def mean(*members):
        return np.concatenate([losses[at][trained[at]] for at in members]).mean()

    assert {group: list(values) for group, values in found.groups.items()} == {
        "language": ["de", "en"], "task": ["rhyme", "sort"], "length": ["1 to 64", "65 to 128"],
        "turn": ["1", "2", "3"],
    }  # fmt: skip
    assert found.groups["task"]["sort"].loss == pytest.approx(mean(0, 2), rel=1e-4)
    assert found.groups["language"]["de"].loss == pytest.approx(mean(1), rel=1e-4)
    assert found.groups["length"]["1 to 64"].examples == 2
    second = np.concatenate([losses[0][11:19], losses[1][19:24]])
    assert found.groups["turn"]["2"].loss == pytest.approx(second.mean(), rel=1e-4)
    assert (found.groups["turn"]["2"].examples, found.groups["turn"]["2"].trained_tokens) == (2, 13)
    assert found.groups["turn"]["3"].low is None  # one example has no interval
    low, high = found.overall.low, found.overall.high
    assert low is not None
    assert high is not None
    assert low < found.overall.loss < high
    turns = found.groups["turn"].values()
    assert sum(one.loss * one.trained_tokens for one in turns) == pytest.approx(
        found.overall.loss * found.overall.trained_tokens
    )


def test_names_of_buckets_and_turns():
    members = group_members([{}] * 4, [1, 64, 65, 9000])
    assert members == {"length": {"1 to 64": [0, 1], "65 to 128": [2], "over 8192": [3]}}
    assert [turn_name(turn) for turn in (0, 3, 4)] == ["1", "4", "5 and later"]
