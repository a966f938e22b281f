"""What lives while a model goes forward and backward, by its decoder layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_cli.model.language_model import own_modules
from sft_cli.model.memory.live_bytes import Live
from sft_cli.model.quant import causal_lm


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers that can be recomputed, in the order of the forward pass; none for families without such layers."""
    inside = own_modules(causal_lm(model)).items()  # a tower for images has such layers too, and text goes through none
    layers = {name: layer for name, layer in inside if isinstance(layer, GradientCheckpointingLayer)}
    return [layer for name, layer in layers.items() if not any(name.startswith(f"{other}.") for other in layers)]


class Passages:
    """What lives when the forward pass leaves each decoder layer, and at most while the backward pass is in it.

    Attributes:
        first: Bytes that live when the forward pass comes to the first layer.
        last: When it leaves the last one.
        kept: By layer, bytes that its forward pass left.
        attended: Most bytes that the attention kernel of a layer returned.
        passing: By layer, most bytes beside what was there when the backward pass came, the gradient it came with
            counted as passing; -1 stands for what lies behind the last layer.
    """

    def __init__(self, live: Live, number: int) -> None:
        self.live, self.kept, self.passing = live, [0] * number, dict[int, int]()
        self.first = self.last = self.attended = 0
        self._place, self._before = -1, 0

    def enter(self, place: int, before: int) -> None:
        """The backward pass comes to a layer."""
        self._place, self._before = place, before
        self.live.again()

    def leave(self) -> None:
        """It has left the one it was in."""
        self.passing[self._place] = max(0, self.live.most - self._before)


@contextmanager
def passages(model: nn.Module, live: Live) -> Iterator[Passages]:
    """Watch the decoder layers within."""
    layers = decoder_layers(model)
    seen, before, attended = Passages(live, len(layers)), [0] * len(layers), [0]

    def enter(place: int) -> Any:
        def into(*_: Any) -> None:
            before[place], attended[0] = live.now, live.attended
            seen.first = seen.first if place else live.now

        return into

    def leave(place: int) -> Any:
        def after(_: nn.Module, __: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            seen.attended = max(seen.attended, live.attended - attended[0])
            seen.kept[place], seen.last = live.now - before[place], live.now
            if states.requires_grad:
                states.register_hook(partial(back, place))

        return after

    def back(place: int, gradient: Tensor) -> None:
        seen.leave()
        seen.enter(place, live.now - gradient.untyped_storage().nbytes())

    handles = [layer.register_forward_pre_hook(enter(place)) for place, layer in enumerate(layers)]
    handles += [layer.register_forward_hook(leave(place)) for place, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
