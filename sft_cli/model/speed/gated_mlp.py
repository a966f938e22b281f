"""Gated feed-forward blocks that keep gate and up alone: ``down(act(gate(x)) * up(x))``.

Written out, autograd keeps four wide tensors of such a block (gate, its activation, up, and the product that LoRA's A
of ``down`` needs again). Two of them follow from the others by elementwise operations, which the backward pass repeats.
No names or classes are asked: one watched forward pass shows which blocks compute this, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sft_cli.model.speed.lora_products import Base, differentiated, multiplied

PRODUCTS = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__)


class Single(Protocol):
    """The group of a fused layer whose input nobody else reads."""

    layers: tuple[Any, ...]
    adapter: str
    bases: tuple[Base, ...]

    def usable(self) -> bool:
        """Whether the layer can be computed as it was seen."""
        ...


@dataclass(frozen=True)
class Activation:
    """An elementwise function: SiLU, or GELU.

    Attributes:
        approximate: How torch computes GELU, ``none`` or ``tanh``; None for SiLU.
    """

    approximate: str | None = None

    def __call__(self, gate: Tensor) -> Tensor:
        """Its values."""
        if self.approximate is None:
            return functional.silu(gate)
        return functional.gelu(gate, approximate=self.approximate)

    def backward(self, gradient: Tensor, gate: Tensor) -> Tensor:
        """The gradient of ``gate``."""
        if self.approximate is None:
            return torch.ops.aten.silu_backward(gradient, gate)
        return torch.ops.aten.gelu_backward(gradient, gate, approximate=self.approximate)


class GatedProducts(torch.autograd.Function):
    """``Products`` of one member whose input is ``activation(gate) * up``; gradients for gate, up, A and B."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, activation: Activation, base: Base, scale: float, *matrices: Tensor
    ) -> Tensor:
        """``(…, O)`` of ``(…, I)`` twice; ``matrices`` are A, ``(r, I)``, and B, ``(O, r)``."""
        ctx.activation, ctx.base, ctx.scale = activation, base, scale
        outputs, kept = multiplied(activation(gate).mul_(up), [base], [scale], matrices, keep=True)
        ctx.save_for_backward(gate, up, *kept)
        return outputs[0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of gate and up, and of A and B."""
        gate, up, *kept = ctx.saved_tensors
        activated = ctx.activation(gate)
        needed = (True, *ctx.needs_input_grad[5:])
        into_x, into_matrices = differentiated(activated * up, kept, [ctx.base], [ctx.scale], [gradient], needed)
        assert into_x is not None
        into_up = activated.mul_(into_x)
        into_gate = ctx.activation.backward(into_x.mul_(up), gate)
        return into_gate, into_up, None, None, None, *into_matrices


@dataclass(frozen=True)
class GatedForward:
    """The ``forward`` of one block.

    Attributes:
        block: The block.
        gate: Its child whose output is activated.
        up: Its child that the activation is multiplied with.
        group: Of the fused layer that reads the product.
        activation: What is computed of the gate.
        gate_first: Its gate is called before its up.
    """

    block: nn.Module
    gate: nn.Module
    up: nn.Module
    group: Single
    activation: Activation
    gate_first: bool

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the block's own forward returns; it is called where there is nothing to gain."""
        down = self.group.layers[0]
        if not torch.is_grad_enabled() or args or kwargs or not self.group.usable() or watched(down):
            return type(self.block).forward(self.block, x, *args, **kwargs)
        if self.gate_first:
            gate, up = self.gate(x), self.up(x)
        else:
            up, gate = self.up(x), self.gate(x)
        kind = gate.device.type
        same = not torch.is_autocast_enabled(kind) or gate.dtype == torch.get_autocast_dtype(kind)
        if not (same and gate.dtype == up.dtype and gate.requires_grad and up.requires_grad):
            return down(self.activation(gate) * up)
        adapter = self.group.adapter
        matrices = (down.lora_A[adapter].weight, down.lora_B[adapter].weight)
        scale = down.scaling[adapter]
        return GatedProducts.apply(  # pyright: ignore[reportReturnType]
            gate, up, self.activation, self.group.bases[0], scale, *matrices
        )


def watched(module: nn.Module) -> bool:
    """Whether hooks run around its forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


@dataclass(frozen=True)
class Call:
    """One call of a module: its only input and its output, which are held so that ids last.

    Attributes:
        name: Of the module.
        given: The input.
        version: The input's version behind the call: writing into a tensor raises it.
        output: The output.
    """

    name: str
    given: Tensor
    version: int
    output: Tensor


@dataclass
class Seen:
    """What one forward pass did.

    Attributes:
        activations: By the id of a result: the function, its input, and the result.
        products: By the id of a result: both factors, and the result.
        calls: By the name of a module, in the order of the first call; None stands for another kind of call.
    """

    activations: dict[int, tuple[Activation, Tensor, Tensor]] = field(default_factory=dict)
    products: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    calls: dict[str, list[Call | None]] = field(default_factory=dict)

    def hook(self, name: str) -> Any:
        """A forward hook that notes the calls of a module."""

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            self.calls.setdefault(name, []).append(Call(name, args[0], args[0]._version, output) if plain else None)

        return note

    def only_call(self, name: str) -> Call | None:
        """The call of a module that was called once, with one tensor for one tensor."""
        calls = self.calls.get(name, [])
        return calls[0] if len(calls) == 1 else None


class Watch(TorchFunctionMode):
    """Notes the activations and products of what runs within."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and note what is of interest."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is functional.silu and len(args) == 1 and not kwargs.get("inplace"):
            self._seen.activations[id(result)] = (Activation(), args[0], result)
        elif func is functional.gelu and len(args) == 1:
            self._seen.activations[id(result)] = (Activation(kwargs.get("approximate", "none")), args[0], result)
        elif func in PRODUCTS and len(args) == 2 and not kwargs and all(isinstance(one, Tensor) for one in args):
            self._seen.products[id(result)] = (args[0], args[1], result)
        return result


def gated_blocks(model: nn.Module, seen: Seen, groups: Mapping[str, Single]) -> list[GatedForward]:
    """The blocks that a watched pass shows to be gated ones.

    Args:
        model: What was watched.
        seen: What its forward pass did, with the calls of all its modules.
        groups: By the name of a fused layer its group, where it is a group of one.
    """
    modules = dict(model.named_modules())
    found = []
    for name, group in groups.items():
        parent = name.rpartition(".")[0]
        down, whole = seen.only_call(name), seen.only_call(parent)
        if down is None or whole is None or whole.output is not down.output or "forward" in vars(modules[parent]):
            continue
        if (traced := _traced(seen, parent, down.given, whole)) is not None:
            activation, gate, up, gate_first = traced
            found.append(GatedForward(modules[parent], modules[gate], modules[up], group, activation, gate_first))
    return found


def _traced(seen: Seen, parent: str, product: Tensor, whole: Call) -> tuple[Activation, str, str, bool] | None:
    """How a block makes the input of its last layer: activation, names of gate and up, whether gate runs first."""
    # Nobody but these two may read the block's input or be read in its product.
    below = [one for name in seen.calls if name.rpartition(".")[0] == parent and (one := seen.only_call(name))]
    readers = [one for one in below if one.given is whole.given]
    if len(readers) != 2 or id(product) not in seen.products:
        return None
    if whole.version or any(one.output._version for one in readers):
        return None
    *factors, _ = seen.products[id(product)]
    for activated, other in (factors, factors[::-1]):
        activation, source, _ = seen.activations.get(id(activated), (None, None, None))
        for gate, up in (readers, readers[::-1]):
            same = gate.output is source and up.output is other and gate.output is not up.output
            if activation is not None and same and not (activated._version or product._version):
                return activation, gate.name, up.name, gate is readers[0]
    return None
