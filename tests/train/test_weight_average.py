"""Averages of weights: the formulas by hand, and that training goes on with the raw weights."""

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
from tests.train.optimizer_helpers import parts, train

KINDS = [Average.ema, Average.last]


class One(nn.Module):
    """One trained number, and a frozen one."""

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
        # Shares 1; 1/3, 2/3; 1/7, 2/7, 4/7; 1/15, 2/15, 4/15, 8/15. The zero it began with has none.
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
def test_nothing_is_averaged_before_the_first_step(kind):
    average = make_weight_average(TrainerConfig(average=kind))
    assert average is not None
    model = One().at(3.0)

    with average.swapped_in(model):
        assert model.w.item() == 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_stands_in_and_the_raw_weights_return(kind):
    given = parts(TrainerConfig(average=kind, average_last=3, ema_decay=0.9, lr=0.01))
    train(given, 0, 4)
    assert given.average is not None
    raw = {name: p.detach().clone() for name, p in given.model.named_parameters()}

    with given.average.swapped_in(given.model):
        inside = given.average.mean()
        for name, p in given.model.named_parameters():
            assert torch.equal(p, inside[name])
        assert not torch.equal(inside["up_proj.weight"], raw["up_proj.weight"])
    assert all(torch.equal(p, raw[name]) for name, p in given.model.named_parameters())

    with pytest.raises(IndexError), given.average.swapped_in(given.model):
        given.model(torch.tensor([99]))

    assert all(torch.equal(p, raw[name]) for name, p in given.model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_averaging_does_not_change_training(kind):
    plain, watched = parts(TrainerConfig(lr=0.01)), parts(TrainerConfig(lr=0.01, average=kind))
    assert plain.average is None
    for given in (plain, watched):
        for step in range(4):
            train(given, step, step + 1)
            with averaged_weights(given.average, given.model):
                given.model(torch.tensor([1]))

    weights = plain.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in watched.model.state_dict().items())


def test_an_average_of_bfloat16_weights_is_finer_than_they_are():
    average, model = ExponentialMovingAverage(0.5), One().to(torch.bfloat16)
    for value in (1.0, 1.0078125):  # neighbors in bfloat16
        average.update(model.at(value))

    assert average.mean()["w"].dtype is torch.float32
    assert average.mean()["w"].item() == pytest.approx(1.00520833)


def test_what_was_averaged_is_not_a_view_of_the_weights():
    average, model = LastStepsAverage(2), One().at(1.0)
    average.update(model)
    model.at(5.0)

    assert average.mean()["w"].item() == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_exports_the_average_and_resumes_the_raw_weights(kind, tmp_path):
    trainer = TrainerConfig(average=kind, average_last=2, lr=0.01)
    given = parts(trainer)
    train(given, 0, 3)
    saved = checkpoint.save_checkpoint(tmp_path, TrainProgress(step=3), given, {})
    exported, resumed = parts(trainer), parts(trainer)

    checkpoint.load_trained_weights(saved, exported.model)
    checkpoint.load_checkpoint(saved, resumed, {})

    assert given.average is not None
    means, weights = given.average.mean(), given.model.state_dict()
    for name in means:
        assert torch.equal(exported.model.state_dict()[name], means[name])
        assert torch.equal(resumed.model.state_dict()[name], weights[name])


def test_a_checkpoint_without_averaging_holds_and_exports_the_weights(tmp_path):
    given = parts(TrainerConfig(lr=0.01))
    train(given, 0, 2)
    saved = checkpoint.save_checkpoint(tmp_path, TrainProgress(step=2), given, {})
    exported = parts(TrainerConfig(lr=0.01))

    checkpoint.load_trained_weights(saved, exported.model)

    assert not (saved / "average.safetensors").exists()
    weights = given.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in exported.model.state_dict().items())
