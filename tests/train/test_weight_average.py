"""Averages of weights: the formulas by hand, and that training continues with the raw weights."""

import pytest
import torch
from torch import nn

from sft_cli.config.schema.trainer import Average, TrainerConfig
from sft_cli.train.checkpoints import checkpoint
from sft_cli.train.checkpoints.checkpoint import TrainProgress
from sft_cli.train.optimizers.weight_average import (
    ExponentialMovingAverage,
    LastStepsAverage,
    averaged_weights,
    make_weight_average,
)
from tests.train.optimizer_helpers import make_state, train

KINDS = [Average.ema, Average.last]


class One(nn.Module):
    """A model with one trained number and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.frozen = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1), requires_grad=False)

    def at(self, value: float) -> "One":
        with torch.no_grad():
            self.w.fill_(value)
        return self


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        # Weights 1; 1/3, 2/3; 1/7, 2/7, 4/7; 1/15, 2/15, 4/15, 8/15. The initial zero has none.
        (ExponentialMovingAverage(0.5), [8.0, (8 + 4) / 3, (8 + 4 + 4) / 7, (8 + 4 + 4 + 32) / 15]),
        (LastStepsAverage(2), [8.0, 5.0, 1.5, 2.5]),
        (LastStepsAverage(3), [8.0, 5.0, 11 / 3, 7 / 3]),
        (LastStepsAverage(9), [8.0, 5.0, 11 / 3, 3.75]),
    ],
)
def test_means_by_hand(average, expected):
    model, found = One(), []
    for value in (8.0, 2.0, 1.0, 4.0):
        average.update(model.at(value))
        found.append(average.mean()["w"].item())

    assert found == pytest.approx(expected, rel=1e-6)
    assert average.mean().keys() == {"w"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_average_changes_no_weights(kind):
    average = make_weight_average(TrainerConfig(average=kind))
    assert average is not None
    model = One().at(3.0)

    with average.swapped_in(model):
        assert model.w.item() == 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_in_restores_the_raw_weights(kind):
    state = make_state(TrainerConfig(average=kind, average_last=3, ema_decay=0.9, lr=0.01))
    train(state, 0, 4)
    assert state.average is not None
    raw = {name: p.detach().clone() for name, p in state.model.named_parameters()}

    with state.average.swapped_in(state.model):
        inside = state.average.mean()
        for name, p in state.model.named_parameters():
            assert torch.equal(p, inside[name])
        assert not torch.equal(inside["up_proj.weight"], raw["up_proj.weight"])
    assert all(torch.equal(p, raw[name]) for name, p in state.model.named_parameters())

    with pytest.raises(IndexError), state.average.swapped_in(state.model):
        state.model(torch.tensor([99]))

    assert all(torch.equal(p, raw[name]) for name, p in state.model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_averaging_does_not_change_training(kind):
    plain, averaged = make_state(TrainerConfig(lr=0.01)), make_state(TrainerConfig(lr=0.01, average=kind))
    assert plain.average is None
    for state in (plain, averaged):
        for step in range(4):
            train(state, step, step + 1)
            with averaged_weights(state.average, state.model):
                state.model(torch.tensor([1]))

    weights = plain.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in averaged.model.state_dict().items())


def test_an_average_of_bfloat16_weights_is_float32():
    average, model = ExponentialMovingAverage(0.5), One().to(torch.bfloat16)
    for value in (1.0, 1.0078125):  # neighbors in bfloat16
        average.update(model.at(value))

    assert average.mean()["w"].dtype is torch.float32
    assert average.mean()["w"].item() == pytest.approx(1.00520833)


def test_the_average_is_not_a_view_of_the_weights():
    average, model = LastStepsAverage(2), One().at(1.0)
    average.update(model)
    model.at(5.0)

    assert average.mean()["w"].item() == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_exports_the_average_and_resumes_the_raw_weights(kind, tmp_path):
    trainer = TrainerConfig(average=kind, average_last=2, lr=0.01)
    state = make_state(trainer)
    train(state, 0, 3)
    saved = checkpoint.save_checkpoint(tmp_path, TrainProgress(step=3), state, {})
    exported, resumed = make_state(trainer), make_state(trainer)

    checkpoint.load_trained_weights(saved, exported.model)
    checkpoint.load_checkpoint(saved, resumed, {})

    assert state.average is not None
    means, weights = state.average.mean(), state.model.state_dict()
    for name in means:
        assert torch.equal(exported.model.state_dict()[name], means[name])
        assert torch.equal(resumed.model.state_dict()[name], weights[name])


def test_a_checkpoint_without_average_exports_the_weights(tmp_path):
    state = make_state(TrainerConfig(lr=0.01))
    train(state, 0, 2)
    saved = checkpoint.save_checkpoint(tmp_path, TrainProgress(step=2), state, {})
    exported = make_state(TrainerConfig(lr=0.01))

    checkpoint.load_trained_weights(saved, exported.model)

    assert not (saved / "average.safetensors").exists()
    weights = state.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in exported.model.state_dict().items())
