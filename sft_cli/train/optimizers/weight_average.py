"""Averages of the trained weights over steps. Training goes on with the raw weights; the average is what is evaluated.

Both are kept in float32 on the device of the parameters.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from sft_cli.config.schema.trainer import Average, TrainerConfig
from sft_cli.train.optimizers.param_groups import trained_parameters


class WeightAverage:
    """An average of the trained weights after each optimizer step; a base for the two kinds.

    Attributes:
        steps: Steps seen.
    """

    def __init__(self) -> None:
        self.steps = 0

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step."""
        raise NotImplementedError

    def mean(self) -> dict[str, Tensor]:
        """The average by parameter name, float32; empty before the first step."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """The mean by parameter name, and whatever else ``load`` needs beside the number of steps."""
        return self.mean()

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Go on from a saved state, on the devices of the model's parameters."""
        raise NotImplementedError

    def put(self, model: nn.Module) -> None:
        """Overwrite the trained parameters with their average; before the first step they stay."""
        put_weights(model, self.mean())

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """The model with its average inside, and to the bit as it was afterwards."""
        raw = {name: p.detach().clone() for name, p in trained_parameters(model)}
        self.put(model)
        try:
            yield
        finally:
            put_weights(model, raw)


class MovingAverage(WeightAverage):
    """An exponential moving average of the weights after steps 1 to t, with Adam's correction of the bias.

    Weights of step i count in proportion to ``decay^(t - i)``, and all shares add up to 1: the weights that training
    began with are not in it, so that a short run's average is not its base. In steps:
    ``mean += (1 - decay) / (1 - decay^t) * (weights - mean)``. It costs 4 bytes a trained parameter.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay, self._mean = decay, dict[str, Tensor]()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step."""
        self.steps += 1
        weights = {name: p.detach().float() for name, p in trained_parameters(model)}
        if not self._mean:
            self._mean = {name: torch.zeros_like(value) for name, value in weights.items()}
        share = (1 - self._decay) / (1 - self._decay**self.steps)
        for name, mean in self._mean.items():
            mean.lerp_(weights[name], share)

    def mean(self) -> dict[str, Tensor]:
        """The average by parameter name; not a copy."""
        return dict(self._mean)

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Go on from a saved mean."""
        places = dict(trained_parameters(model))
        self.steps, self._mean = steps, {name: value.to(places[name].device) for name, value in state.items()}


class LastWeights(WeightAverage):
    """The mean of the weights after the last k steps, or of all while they are fewer.

    It keeps k copies, 4 k bytes a trained parameter: a running sum would drift.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last, self._kept = last, list[dict[str, Tensor]]()

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step; the oldest copy is written over."""
        weights = {name: p.detach() for name, p in trained_parameters(model)}
        if len(self._kept) < self._last:
            self._kept.append({name: value.to(torch.float32, copy=True) for name, value in weights.items()})
        else:
            for name, value in self._kept[self.steps % self._last].items():
                value.copy_(weights[name])
        self.steps += 1

    def mean(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        if not self._kept:
            return {}
        means = {name: value.clone() for name, value in self._kept[0].items()}
        for name, total in means.items():
            for kept in self._kept[1:]:
                total += kept[name]
            total /= len(self._kept)
        return means

    def state(self) -> dict[str, Tensor]:
        """The mean, and the copies as ``<place>/<parameter>``."""
        copies = {f"{place}/{name}": value for place, kept in enumerate(self._kept) for name, value in kept.items()}
        return {**self.mean(), **copies}

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Go on from saved copies."""
        places = dict(trained_parameters(model))
        self.steps, self._kept = steps, [{} for _ in range(min(steps, self._last))]
        for key, value in state.items():
            place, slash, name = key.partition("/")
            if slash:
                self._kept[int(place)][name] = value.to(places[name].device)


def make_average(trainer: TrainerConfig) -> WeightAverage | None:
    """The average that ``trainer.average`` asks for, or None."""
    if trainer.average is Average.none:
        return None
    return MovingAverage(trainer.ema_decay) if trainer.average is Average.ema else LastWeights(trainer.average_last)


def averaged(average: WeightAverage | None, model: nn.Module) -> AbstractContextManager[None]:
    """The model with its average inside, where there is one."""
    return nullcontext() if average is None else average.swapped(model)


@torch.no_grad()
def put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite trained parameters by name, each in its own type; those without an entry stay."""
    for name, parameter in trained_parameters(model):
        if name in weights:
            parameter.copy_(weights[name])
