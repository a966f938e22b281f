"""Run only the first of identical layers; the others return a copy of its output."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def share_identical_layers(named_layers: Mapping[str, nn.Module]) -> dict[int, int]:
    """Let layers that are identical to an earlier one of the same list return a copy of its output.

    A 32-layer model is then counted from two of its layers. The first layer is never an original: its input may need
    no gradient, and tensors that all layers share are counted with it. Layers of another list may run earlier, or not
    at all.

    Args:
        named_layers: The decoder layers by name; those of one list in the order in which they run.

    Returns:
        For each copied layer, the index of its original.
    """
    originals: dict[Hashable, int] = {}
    duplicates: dict[int, int] = {}
    layers = list(named_layers.values())
    for index, (name, layer) in enumerate(named_layers.items()):
        if index == 0:
            continue
        original = originals.setdefault((name.rpartition(".")[0], structural_key(layer)), index)
        if original != index:
            duplicates[index] = original
    for original in set(duplicates.values()):
        outputs: list[Any] = []
        layers[original].register_forward_hook(
            lambda _, __, output, outputs=outputs: outputs.__setitem__(slice(None), [output])
        )
        copies = [index for index, model in duplicates.items() if model == original]
        for index in copies:
            layers[index].forward = CopiedForward(outputs, is_last=index == copies[-1])
    return duplicates


class CopiedForward:
    """The forward of a layer that returns another layer's last output, in its own storage.

    The gradient of the output reaches the layer's own input, as in a computed layer: otherwise the layers between the
    original and its copy would not take part in the backward pass. The last copy releases the output, which may
    include attention weights that the model itself does not keep.
    """

    def __init__(self, outputs: list[Any], *, is_last: bool) -> None:
        self.outputs, self.is_last = outputs, is_last
        self.inputs: tuple[Any, ...] = ()

    def __call__(self, *inputs: Any, **_: Any) -> Any:
        """Return copies of the original's output, with gradients where it has them; keep the input, as a layer does."""
        self.inputs = inputs

        def copied(output: Tensor) -> Tensor:
            if output.requires_grad and inputs and inputs[0].shape == output.shape:
                return CopyWithGradientOfInput.apply(inputs[0], output.detach())
            return output.clone()

        return tree_map_only(Tensor, copied, self.outputs.pop() if self.is_last else self.outputs[0])


class CopyWithGradientOfInput(torch.autograd.Function):
    """A copy of ``output`` whose gradient is passed on to ``states``, unchanged."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, output: Tensor) -> Tensor:
        """Return a copy of ``output``."""
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient of ``states``."""
        return gradients[0], None


COMPARED_TYPES = (bool, int, float, str, type(None), tuple)
"""Types of attributes that distinguish layers."""
POSITION_ATTRIBUTES = {"layer_idx", "layer_id", "layer_number", "training"}
"""Attributes that depend on the position of a layer, not on its computation."""


def structural_key(layer: nn.Module) -> Hashable:
    """Return a key of a layer's computation apart from its weights: classes, attributes, shapes and dtypes."""
    parts: list[Hashable] = []
    for name, module in layer.named_modules():
        plain = ((key, repr(value)) for key, value in vars(module).items() if isinstance(value, COMPARED_TYPES))
        tensors_by_name = (*module._parameters.items(), *module._buffers.items())
        tensors = (
            (key, value.shape, value.dtype, value.requires_grad) for key, value in tensors_by_name if value is not None
        )
        parts.append(
            (
                name,
                type(module),
                frozenset(item for item in plain if item[0] not in POSITION_ATTRIBUTES),
                tuple(tensors),
            )
        )
    return tuple(parts)
