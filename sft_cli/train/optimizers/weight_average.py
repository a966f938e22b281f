"""Averages of the trained weights over steps: training uses the raw weights, evaluation and export the average.

Averages are kept in float32 on the device of the parameters.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from sft_cli.config.schema.trainer import Average, TrainerConfig
from sft_cli.train.optimizers.param_groups import trained_parameters


class WeightAverage:
    """Base class: an average of the trained weights after each optimizer step.

    Attributes:
        steps: Number of steps in the average.
    """

    def __init__(self) -> None:
        self.steps = 0

    def update(self, model: nn.Module) -> None:
        """Add the weights after an optimizer step."""
        raise NotImplementedError

    def mean(self) -> dict[str, Tensor]:
        """Return the average by parameter name, float32; empty before the first step."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Return the tensors to save: the mean by parameter name, and what else ``load`` of a subclass needs."""
        return self.mean()

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Load a saved state to the devices of the model's parameters."""
        raise NotImplementedError

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the trained parameters with their average; before the first step, do nothing."""
        copy_weights(model, self.mean())

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Use the average inside the block and restore the raw weights, bit for bit, after it."""
        raw = {name: p.detach().clone() for name, p in trained_parameters(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            copy_weights(model, raw)


class ExponentialMovingAverage(WeightAverage):
    """An exponential moving average of the weights after steps 1 to t, with Adam's correction of the bias.

    The weights of step i are weighted in proportion to ``decay^(t - i)``; the factors sum to 1. The initial weights do
    not count, so that the average of a short run is not close to its base. Update:
    ``mean += (1 - decay) / (1 - decay^t) * (weights - mean)``. It needs 4 bytes per trained parameter.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay, self._mean = decay, dict[str, Tensor]()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after an optimizer step."""
        self.steps += 1
        weights = {name: p.detach().float() for name, p in trained_parameters(model)}
        if not self._mean:
            self._mean = {name: torch.zeros_like(value) for name, value in weights.items()}
        weight = (1 - self._decay) / (1 - self._decay**self.steps)
        for name, mean in self._mean.items():
            mean.lerp_(weights[name], weight)

    def mean(self) -> dict[str, Tensor]:
        """Return the average by parameter name; not a copy."""
        return dict(self._mean)

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Load a saved mean."""
        parameters = dict(trained_parameters(model))
        self.steps, self._mean = steps, {name: value.to(parameters[name].device) for name, value in state.items()}


class LastStepsAverage(WeightAverage):
    """The mean of the weights after the last k steps, or after all steps while there are fewer.

    It keeps k copies (4 k bytes per trained parameter), because a running sum would accumulate rounding errors.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last, self._kept = last, list[dict[str, Tensor]]()

    def update(self, model: nn.Module) -> None:
        """Add the weights after an optimizer step, in place of the oldest copy."""
        weights = {name: p.detach() for name, p in trained_parameters(model)}
        if len(self._kept) < self._last:
            self._kept.append({name: value.to(torch.float32, copy=True) for name, value in weights.items()})
        else:
            for name, value in self._kept[self.steps % self._last].items():
                value.copy_(weights[name])
        self.steps += 1

    def mean(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        if not self._kept:
            return {}
        means = {name: value.clone() for name, value in self._kept[0].items()}
        for name, total in means.items():
            for copy in self._kept[1:]:
                total += copy[name]
            total /= len(self._kept)
        return means

    def state(self) -> dict[str, Tensor]:
        """Return the mean, and the copies as ``<index>/<parameter>``."""
        copies = {f"{index}/{name}": value for index, copy in enumerate(self._kept) for name, value in copy.items()}
        return {**self.mean(), **copies}

    def load(self, state: Mapping[str, Tensor], steps: int, model: nn.Module) -> None:
        """Load saved copies."""
        parameters = dict(trained_parameters(model))
        self.steps, self._kept = steps, [{} for _ in range(min(steps, self._last))]
        for key, value in state.items():
            index, slash, name = key.partition("/")
            if slash:
                self._kept[int(index)][name] = value.to(parameters[name].device)


def make_weight_average(trainer: TrainerConfig) -> WeightAverage | None:
    """Return the average that ``trainer.average`` sets, or None."""
    if trainer.average is Average.none:
        return None
    return (
        ExponentialMovingAverage(trainer.ema_decay)
        if trainer.average is Average.ema
        else LastStepsAverage(trainer.average_last)
    )


def averaged_weights(average: WeightAverage | None, model: nn.Module) -> AbstractContextManager[None]:
    """Use the average inside the block; without an average, use the raw weights."""
    return nullcontext() if average is None else average.swapped_in(model)


@torch.no_grad()
def copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite the trained parameters named in ``weights``; each keeps its dtype."""
    for name, parameter in trained_parameters(model):
        if name in weights:
            parameter.copy_(weights[name])
