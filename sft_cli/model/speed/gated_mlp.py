"""Gated feed-forward blocks ``down(act(gate(x)) * up(x))`` that save only the outputs of gate and up.

Otherwise autograd saves four wide tensors of such a block: gate, its activation, up, and the product, which LoRA's A of
``down`` needs again. Two of them follow from the others by elementwise operations, which the backward pass repeats.
Blocks are not recognized by names or classes: a traced forward pass shows which blocks compute exactly this formula.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sft_cli.model.device import compute_dtype
from sft_cli.model.speed.lora_products import BaseLayer, fused_backward, fused_forward

MULTIPLICATIONS = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__)


class SingleLayerGroup(Protocol):
    """The group of a fused layer that shares its input with no other layer."""

    layers: tuple[Any, ...]
    adapter: str
    bases: tuple[BaseLayer, ...]

    def is_usable(self) -> bool:
        """Return whether the layer still computes as it did when traced."""
        ...


@dataclass(frozen=True)
class Activation:
    """An elementwise function: SiLU, or GELU.

    Attributes:
        approximate: How torch computes GELU, ``none`` or ``tanh``; None for SiLU.
    """

    approximate: str | None = None

    def __call__(self, gate: Tensor) -> Tensor:
        """Apply the function."""
        if self.approximate is None:
            return functional.silu(gate)
        return functional.gelu(gate, approximate=self.approximate)

    def backward(self, gradient: Tensor, gate: Tensor) -> Tensor:
        """Return the gradient of ``gate``."""
        if self.approximate is None:
            return torch.ops.aten.silu_backward(gradient, gate)
        return torch.ops.aten.gelu_backward(gradient, gate, approximate=self.approximate)


class GatedMLPFunction(torch.autograd.Function):
    """``FusedLoraFunction`` of one layer whose input is ``activation(gate) * up``; gradients for gate, up, A and B."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, activation: Activation, base: BaseLayer, scale: float, *matrices: Tensor
    ) -> Tensor:
        """Return ``(…, O)``; gate and up are ``(…, I)``, ``matrices`` are A ``(r, I)`` and B ``(O, r)``."""
        ctx.activation, ctx.base, ctx.scale = activation, base, scale
        outputs, kept = fused_forward(activation(gate).mul_(up), [base], [scale], matrices, keep=True)
        ctx.save_for_backward(gate, up, *kept)
        return outputs[0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of gate and up, and of A and B."""
        gate, up, *kept = ctx.saved_tensors
        activated = ctx.activation(gate)
        needed = (True, *ctx.needs_input_grad[5:])
        into_x, into_matrices = fused_backward(activated * up, kept, [ctx.base], [ctx.scale], [gradient], needed)
        assert into_x is not None
        into_up = activated.mul_(into_x)
        into_gate = ctx.activation.backward(into_x.mul_(up), gate)
        return into_gate, into_up, None, None, None, *into_matrices


@dataclass(frozen=True)
class GatedForward:
    """The ``forward`` of one block.

    Attributes:
        block: The block.
        gate: The child whose output is activated.
        up: The child whose output is multiplied by the activation.
        group: The group of the fused layer that reads the product.
        activation: The activation of the gate.
        gate_first: Whether gate is called before up.
    """

    block: nn.Module
    gate: nn.Module
    up: nn.Module
    group: SingleLayerGroup
    activation: Activation
    gate_first: bool

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the result of the block's own forward, which is called if no memory can be saved."""
        down = self.group.layers[0]
        if not torch.is_grad_enabled() or args or kwargs or not self.group.is_usable() or has_hooks(down):
            return type(self.block).forward(self.block, x, *args, **kwargs)
        if self.gate_first:
            gate, up = self.gate(x), self.up(x)
        else:
            up, gate = self.up(x), self.gate(x)
        same_type = gate.dtype == compute_dtype(gate) == up.dtype
        if not (same_type and gate.requires_grad and up.requires_grad):
            return down(self.activation(gate) * up)
        adapter = self.group.adapter
        matrices = (down.lora_A[adapter].weight, down.lora_B[adapter].weight)
        scale = down.scaling[adapter]
        return GatedMLPFunction.apply(  # pyright: ignore[reportReturnType]
            gate, up, self.activation, self.group.bases[0], scale, *matrices
        )


def has_hooks(module: nn.Module) -> bool:
    """Return whether hooks run around a module's forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: its only input and its output, which are kept so that their ids stay unique.

    Attributes:
        name: The name of the module.
        input: The input.
        version: The version of the input after the call, which in-place operations increase.
        output: The output.
    """

    name: str
    input: Tensor
    version: int
    output: Tensor


@dataclass
class ForwardTrace:
    """Operations and calls of one forward pass.

    Attributes:
        activations: By the id of a result: the function, its input, and the result.
        products: By the id of a result: both factors, and the result.
        calls: By the name of a module, in the order of the first call; None if it did not map one tensor to another.
    """

    activations: dict[int, tuple[Activation, Tensor, Tensor]] = field(default_factory=dict)
    products: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    calls: dict[str, list[ModuleCall | None]] = field(default_factory=dict)

    def make_hook(self, name: str) -> Any:
        """Return a forward hook that records the calls of a module."""

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            """Record the call of a module."""
            plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            self.calls.setdefault(name, []).append(
                ModuleCall(name, args[0], args[0]._version, output) if plain else None
            )

        return record

    def single_call(self, name: str) -> ModuleCall | None:
        """Return the call of a module that was called once and maps one tensor to another; None for others."""
        calls = self.calls.get(name, [])
        return calls[0] if len(calls) == 1 else None


class OpRecorder(TorchFunctionMode):
    """Record the activations and products that run inside the block."""

    def __init__(self, trace: ForwardTrace) -> None:
        super().__init__()
        self._seen = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and record it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is functional.silu and len(args) == 1 and not kwargs.get("inplace"):
            self._seen.activations[id(result)] = (Activation(), args[0], result)
        elif func is functional.gelu and len(args) == 1:
            self._seen.activations[id(result)] = (Activation(kwargs.get("approximate", "none")), args[0], result)
        elif (
            func in MULTIPLICATIONS
            and len(args) == 2
            and not kwargs
            and all(isinstance(argument, Tensor) for argument in args)
        ):
            self._seen.products[id(result)] = (args[0], args[1], result)
        return result


def find_gated_blocks(
    model: nn.Module, trace: ForwardTrace, groups: Mapping[str, SingleLayerGroup]
) -> list[GatedForward]:
    """Return the gated blocks of a model.

    Args:
        model: The model.
        trace: A trace of its forward pass, with the calls of all modules.
        groups: The groups of one layer, by the name of the layer.
    """
    modules = dict(model.named_modules())
    blocks = []
    for name, group in groups.items():
        parent = name.rpartition(".")[0]
        down, block_call = trace.single_call(name), trace.single_call(parent)
        if (
            down is None
            or block_call is None
            or block_call.output is not down.output
            or "forward" in vars(modules[parent])
        ):
            continue
        if (match := _match_gated_block(trace, parent, down.input, block_call)) is not None:
            activation, gate, up, gate_first = match
            blocks.append(GatedForward(modules[parent], modules[gate], modules[up], group, activation, gate_first))
    return blocks


def _match_gated_block(
    trace: ForwardTrace, parent: str, product: Tensor, block_call: ModuleCall
) -> tuple[Activation, str, str, bool] | None:
    """Return activation, names of gate and up, and whether gate runs first, if the block computes a gated product."""
    # Exactly two children may read the block's input, and the product must depend only on them.
    child_calls = [
        call for name in trace.calls if name.rpartition(".")[0] == parent and (call := trace.single_call(name))
    ]
    readers = [call for call in child_calls if call.input is block_call.input]
    if len(readers) != 2 or id(product) not in trace.products:
        return None
    if block_call.version or any(call.output._version for call in readers):
        return None
    *factors, _ = trace.products[id(product)]
    for activated, other in (factors, factors[::-1]):
        activation, source, _ = trace.activations.get(id(activated), (None, None, None))
        for gate, up in (readers, readers[::-1]):
            same = gate.output is source and up.output is other and gate.output is not up.output
            if activation is not None and same and not (activated._version or product._version):
                return activation, gate.name, up.name, gate is readers[0]
    return None
