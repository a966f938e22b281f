"""Layers that are built alike are counted once: the others stand in with a copy of its output."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def share_alike(layers: Sequence[nn.Module]) -> dict[int, int]:
    """Let layers built like an earlier one give a copy of its output instead of computing; which stands for which.

    A 32-layer model is then counted from two of its layers. The first layer stands only for itself: its input may
    need no gradient, and what all layers share is counted under it.

    Args:
        layers: The decoder layers, in the order in which they run.
    """
    first: dict[Hashable, int] = {}
    alike: dict[int, int] = {}
    for place, layer in enumerate(layers[1:], start=1):
        one = first.setdefault(blueprint(layer), place)
        if one != place:
            alike[place] = one
    for one in set(alike.values()):
        outputs: list[Any] = []
        layers[one].register_forward_hook(
            lambda _, __, output, outputs=outputs: outputs.__setitem__(slice(None), [output])
        )
        for place in (place for place, model in alike.items() if model == one):
            layers[place].forward = StandIn(outputs)
    return alike


class StandIn:
    """The forward of a layer that gives what another one gave last, in storage of its own."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs
        self.given: tuple[Any, ...] = ()

    def __call__(self, *given: Any, **_: Any) -> Any:
        """Copies of the other's tensors, with a gradient where they have one; its own input is kept, as layers do."""
        self.given = given
        return tree_map_only(Tensor, torch.clone, self.outputs[0])


PLAIN = (bool, int, float, str, type(None), tuple)
"""Types of attributes that tell layers apart."""
PLACES = {"layer_idx", "layer_id", "layer_number", "training"}
"""Attributes that say where a layer is, not what it computes."""


def blueprint(layer: nn.Module) -> Hashable:
    """All that decides how a layer computes but for its weights' values: classes, plain attributes, shapes, types."""
    parts: list[Hashable] = []
    for name, module in layer.named_modules():
        plain = ((key, repr(value)) for key, value in vars(module).items() if isinstance(value, PLAIN))
        own = (*module._parameters.items(), *module._buffers.items())
        tensors = ((key, value.shape, value.dtype, value.requires_grad) for key, value in own if value is not None)
        parts.append((name, type(module), frozenset(item for item in plain if item[0] not in PLACES), tuple(tensors)))
    return tuple(parts)
