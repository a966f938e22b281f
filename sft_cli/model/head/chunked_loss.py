"""The loss of many positions, one chunk of logits at a time, with its gradient formed in the forward pass.

The gradient by the logits has a closed form and is computed while the logits exist, then carried on to the hidden
states at once. This takes two products with the head instead of the three that recomputing the logits in the backward
pass would take, and keeps ``(N, width)`` instead of ``(N, V)``.

Shapes: N trained positions, C positions of a chunk, V vocabulary, K terms.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.device import compute_dtype
from sft_cli.model.head.kl_reference import KLReference
from sft_cli.model.head.logits import LogitsRescaling
from sft_cli.model.head.objective import loss_and_gradient

MAX_CPU_CHUNK = 256
"""Most positions of a chunk on a CPU: fewer are too small for the products, more do not fit into the caches
(measured with 32 to 600 positions at 32,000 and 151,936 words)."""
FP16_GRADIENT_SCALE = 1024.0
"""Factor on derivatives in float16, whose smallest number is 6e-8: most probabilities would vanish."""
FP16_GRADIENT_LIMIT = 8192.0
"""Largest gradient of a trained or capped head before it is unscaled; float16 ends at 65504."""


@dataclass(frozen=True)
class OutputHead:
    """The mapping from states to logits.

    Attributes:
        module: The output embedding; ``nn.Identity`` when the states are logits already.
        rescale: What the family does to the module's result.
        chunk: Most positions whose logits exist at once.
    """

    module: nn.Module
    rescale: LogitsRescaling
    chunk: int

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of the module that are trained."""
        return [value for value in self.module.parameters() if value.requires_grad]

    def logits(self, states: Tensor) -> Tensor:
        """Return ``(C, V)`` logits of states ``(C, width)``."""
        return self.rescale(self.module(states))


@dataclass(frozen=True)
class LossInputs:
    """Inputs of the loss at the trained positions.

    Attributes:
        states: ``(N, width)``, or ``(N, V)`` logits.
        targets: ``(N,)``.
        weights: ``(N,)`` float32.
        loss: The objective.
        base: The base's states at the same positions, for KL; else None.
        reference: Makes the base's head from the trained one.
    """

    states: Tensor
    targets: Tensor
    weights: Tensor
    loss: LossConfig
    base: Tensor | None = None
    reference: KLReference | None = None

    def chunk_inputs(self, rows: slice, head: OutputHead) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return states, targets and the base's float32 logits at some positions, without a graph."""
        base = None
        if self.base is not None:
            assert self.reference is not None
            # A head that is not trained is the base's head.
            with self.reference.activate() if head.trained else nullcontext(), torch.no_grad():
                base = head.logits(self.base[rows]).to(torch.float32, copy=True)
        return self.states.detach()[rows], self.targets[rows], base


class PrecomputedGradient(torch.autograd.Function):
    """A scalar whose gradients were computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """Return ``value``; ``gradients`` are those of the inputs."""
        ctx.save_for_backward(*gradients)
        ctx.types = [one.dtype for one in inputs]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
        """Return the precomputed gradients, times that of the scalar."""
        values_list = [(one * outer[0]).to(dtype) for one, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)]
        return (None, None, *values_list)


def weighted_loss(head: OutputHead, task: LossInputs) -> tuple[Tensor, Tensor]:
    """Compute the sum over all positions of weight x objective.

    Returns:
        The sum with a graph, and the ``(K, N)`` terms of each position without.
    """
    trained = head.trained
    if not torch.is_grad_enabled() or not (task.states.requires_grad or trained):
        values = loss_values(head, task)
        return (values[0] * task.weights).sum(), values
    if is_frozen_linear(head):
        values, gradients = _frozen_head_gradient(head, task)
    else:
        values, gradients = _autograd_gradient(head, task, trained)
    total = (values[0] * task.weights).sum()
    loss = PrecomputedGradient.apply(total, gradients, task.states, *trained)
    assert isinstance(loss, Tensor)
    return loss, values


def loss_values(head: OutputHead, task: LossInputs) -> Tensor:
    """Return the ``(K, N)`` terms, without a gradient."""
    with torch.no_grad():
        values_list = []
        for rows in _chunk_slices(head, task):
            states, targets, base = task.chunk_inputs(rows, head)
            logits = head.logits(states).to(torch.float32, copy=True)
            values_list.append(loss_and_gradient(logits, targets, task.loss, base, gradient=False).values)
        return torch.cat(values_list, dim=1)


def is_frozen_linear(head: OutputHead) -> bool:
    """Return whether the logits are one product with a frozen matrix, possibly scaled."""
    module = head.module
    if type(module) is not nn.Linear or head.rescale.cap is not None:
        return False
    own = vars(module)
    # accelerate and FSDP put their work into hooks or a forward of the module's own.
    free = not own["_forward_hooks"] and not own["_forward_pre_hooks"] and "forward" not in own
    return free and not head.trained


def _chunk_slices(head: OutputHead, task: LossInputs) -> list[slice]:
    """Split the positions into chunks; return one empty chunk for none, so that a trained head is in the graph."""
    size = min(head.chunk, MAX_CPU_CHUNK) if task.states.device.type == "cpu" else head.chunk
    return [slice(start, start + size) for start in range(0, max(len(task.states), 1), size)]


@torch.no_grad()
def _frozen_head_gradient(head: OutputHead, task: LossInputs) -> tuple[Tensor, list[Tensor]]:
    """Return ``(K, N)`` terms and the gradient of the states for a frozen linear head; all chunks share buffers."""
    module = head.module
    assert isinstance(module, nn.Linear)
    weight, bias, dtype = module.weight, module.bias, compute_dtype(module.weight)
    weight = weight.to(dtype)
    pieces = _chunk_slices(head, task)
    most = min(pieces[0].stop, len(task.states))
    products = weight.new_empty(most, weight.shape[0])
    logits = products if dtype is torch.float32 else products.new_empty(products.shape, dtype=torch.float32)
    half = dtype is torch.float16
    kept = torch.empty_like(task.states, dtype=torch.float32 if half else task.states.dtype)
    factors = task.weights * (head.rescale.slope / (FP16_GRADIENT_SCALE if half else 1.0))
    values_list = []
    for rows in pieces:
        states, targets, base = task.chunk_inputs(rows, head)
        own = products[: len(states)]
        with torch.autocast(own.device.type, enabled=False):
            torch.mm(states.to(dtype), weight.t(), out=own)
            if bias is not None:
                own += bias.to(dtype)
            scored = loss_and_gradient(
                _rescale_in_place(head.rescale, own, logits[: len(states)]), targets, task.loss, base
            )
            assert scored.gradient is not None
            own.copy_(scored.gradient.mul_(FP16_GRADIENT_SCALE) if half else scored.gradient)
            # Weighing the narrow result is cheaper than weighing the logits.
            kept[rows] = (own @ weight) * factors[rows, None]
        values_list.append(scored.values)
    return torch.cat(values_list, dim=1), [kept]


def _rescale_in_place(rescale: LogitsRescaling, products: Tensor, logits: Tensor) -> Tensor:
    """Rescale products in the type of the head; return float32 logits, in the memory of ``logits``."""
    if rescale.factor != 1.0:
        products.mul_(rescale.factor)
    if rescale.divisor != 1.0:
        products.div_(rescale.divisor)
    return logits if logits.dtype == products.dtype else logits.copy_(products)


def _autograd_gradient(head: OutputHead, task: LossInputs, trained: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Return the terms for any head, and the gradients of states and trained parameters; one graph per chunk."""
    values_list, kept = [], []
    sums: list[Tensor | None] = [None] * len(trained)
    half = compute_dtype(task.states) is torch.float16
    for rows in _chunk_slices(head, task):
        states, targets, base = task.chunk_inputs(rows, head)
        with torch.enable_grad():
            leaf = states.requires_grad_()
            logits = head.logits(leaf)
        with torch.no_grad():
            scored = loss_and_gradient(logits.detach().to(torch.float32, copy=True), targets, task.loss, base)
            assert scored.gradient is not None
            outer = scored.gradient.mul_(task.weights[rows, None])
            scale = _float16_scale(outer, leaf) if half else None
            outer = (outer if scale is None else outer.mul_(scale)).to(logits.dtype)
        own, *others = torch.autograd.grad(logits, [leaf, *trained], outer, allow_unused=True)
        kept.append(own if scale is None else own.float() / scale)
        sums = [_accumulate(total, other, scale) for total, other in zip(sums, others, strict=True)]
        values_list.append(scored.values)
    whole = [torch.zeros_like(own) if total is None else total for total, own in zip(sums, trained, strict=True)]
    return torch.cat(values_list, dim=1), [torch.cat(kept), *whole]


def _accumulate(total: Tensor | None, part: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """Add a gradient, divided by its scale, to the float32 sum so far; None is zero."""
    if part is None:
        return total
    part = part.float() if scale is None else part.float() / scale
    return part if total is None else total.add_(part)


def _float16_scale(gradient: Tensor, states: Tensor) -> Tensor:
    """Return the power of two by which derivatives are multiplied before they are rounded to float16, a scalar.

    It is as large as the gradients of the head allow: an element of the product of the derivatives ``(C, V)`` with the
    states ``(C, width)`` is at most the sum, over positions, of their largest elements' products. Without it, weights
    that contain a divisor of thousands and small probabilities would vanish.
    """
    bound = (gradient.abs().amax(dim=1) * states.abs().amax(dim=1).float().clamp_min(1.0)).sum()
    return torch.exp2(torch.floor(torch.log2(FP16_GRADIENT_LIMIT / bound.clamp_min(1e-30))))
