"""The loss of many positions, one chunk of logits at a time, with its gradient computed in the forward pass.

The gradient with respect to the logits has a closed form. It is computed while the logits exist, and multiplied with
the head at once. This takes two products with the head instead of the three that recomputing the logits in the backward
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
"""Largest number of positions of a chunk on a CPU: fewer make the products slow, more do not fit into the caches
(measured with 32 to 600 positions and vocabularies of 32,000 and 151,936)."""
FP16_GRADIENT_SCALE = 1024.0
"""Factor on derivatives in float16, whose smallest number is 6e-8: most probabilities would become 0."""
FP16_GRADIENT_LIMIT = 8192.0
"""Largest gradient of a trained or capped head before it is unscaled; the largest float16 is 65504."""


@dataclass(frozen=True)
class OutputHead:
    """The mapping from states to logits.

    Attributes:
        module: The output embedding; ``nn.Identity`` if the states are already logits.
        rescale: The family's rescaling of the module's result.
        chunk: Largest number of positions whose logits exist at once.
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
        reference: Lets the trained head compute as the base's head.
    """

    states: Tensor
    targets: Tensor
    weights: Tensor
    loss: LossConfig
    base: Tensor | None = None
    reference: KLReference | None = None

    def chunk_inputs(self, rows: slice, head: OutputHead) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return states, targets and the base's float32 logits at the positions ``rows``, without a graph."""
        base = None
        if self.base is not None:
            assert self.reference is not None
            # A head that is not trained is the base's head.
            with self.reference.activate() if head.trained else nullcontext(), torch.no_grad():
                base = head.logits(self.base[rows]).to(torch.float32, copy=True)
        return self.states.detach()[rows], self.targets[rows], base


class PrecomputedGradient(torch.autograd.Function):
    """A scalar whose gradients have already been computed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """Return ``value``; ``gradients`` are its gradients with respect to the inputs."""
        ctx.save_for_backward(*gradients)
        ctx.types = [tensor.dtype for tensor in inputs]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
        """Return the precomputed gradients times the gradient of the scalar."""
        scaled = [(gradient * outer[0]).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)]
        return (None, None, *scaled)


def weighted_loss(head: OutputHead, task: LossInputs) -> tuple[Tensor, Tensor]:
    """Compute the sum over all positions of weight x objective.

    Returns:
        The sum with a graph, and the ``(K, N)`` terms of each position without one.
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
    attributes = vars(module)
    # accelerate and FSDP use hooks, or replace the forward of the instance.
    is_unhooked = (
        not attributes["_forward_hooks"] and not attributes["_forward_pre_hooks"] and "forward" not in attributes
    )
    return is_unhooked and not head.trained


def _chunk_slices(head: OutputHead, task: LossInputs) -> list[slice]:
    """Split the positions into chunks; without positions, one empty chunk, so that a trained head is in the graph."""
    size = min(head.chunk, MAX_CPU_CHUNK) if task.states.device.type == "cpu" else head.chunk
    return [slice(start, start + size) for start in range(0, max(len(task.states), 1), size)]


@torch.no_grad()
def _frozen_head_gradient(head: OutputHead, task: LossInputs) -> tuple[Tensor, list[Tensor]]:
    """Return ``(K, N)`` terms and the gradient of the states for a frozen linear head; all chunks share buffers."""
    module = head.module
    assert isinstance(module, nn.Linear)
    weight, bias, dtype = module.weight, module.bias, compute_dtype(module.weight)
    weight = weight.to(dtype)
    chunks = _chunk_slices(head, task)
    buffer_rows = min(chunks[0].stop, len(task.states))
    products = weight.new_empty(buffer_rows, weight.shape[0])
    logits = products if dtype is torch.float32 else products.new_empty(products.shape, dtype=torch.float32)
    half = dtype is torch.float16
    gradients = torch.empty_like(task.states, dtype=torch.float32 if half else task.states.dtype)
    factors = task.weights * (head.rescale.slope / (FP16_GRADIENT_SCALE if half else 1.0))
    values_list = []
    for rows in chunks:
        states, targets, base = task.chunk_inputs(rows, head)
        chunk_products = products[: len(states)]
        with torch.autocast(chunk_products.device.type, enabled=False):
            torch.mm(states.to(dtype), weight.t(), out=chunk_products)
            if bias is not None:
                chunk_products += bias.to(dtype)
            scored = loss_and_gradient(
                _rescale_in_place(head.rescale, chunk_products, logits[: len(states)]), targets, task.loss, base
            )
            assert scored.gradient is not None
            chunk_products.copy_(scored.gradient.mul_(FP16_GRADIENT_SCALE) if half else scored.gradient)
            # Weighting the narrow result is cheaper than weighting the logits.
            gradients[rows] = (chunk_products @ weight) * factors[rows, None]
        values_list.append(scored.values)
        del scored  # before the next chunk: it holds as much as the logits
    return torch.cat(values_list, dim=1), [gradients]


def _rescale_in_place(rescale: LogitsRescaling, products: Tensor, logits: Tensor) -> Tensor:
    """Rescale products in the dtype of the head and return float32 logits, in the memory of ``logits``."""
    if rescale.factor != 1.0:
        products.mul_(rescale.factor)
    if rescale.divisor != 1.0:
        products.div_(rescale.divisor)
    return logits if logits.dtype == products.dtype else logits.copy_(products)


def _autograd_gradient(head: OutputHead, task: LossInputs, trained: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Return the terms for any head, and the gradients of states and trained parameters, with a graph per chunk."""
    values_list, state_gradients = [], []
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
        state_gradients.append(own if scale is None else own.float() / scale)
        sums = [_accumulate(total, other, scale) for total, other in zip(sums, others, strict=True)]
        values_list.append(scored.values)
        del logits, scored, outer  # before the next chunk: each holds as much as the logits
    parameter_gradients = [
        torch.zeros_like(own) if total is None else total for total, own in zip(sums, trained, strict=True)
    ]
    return torch.cat(values_list, dim=1), [torch.cat(state_gradients), *parameter_gradients]


def _accumulate(total: Tensor | None, part: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """Add a gradient, divided by its scale, to the float32 sum; None counts as zero."""
    if part is None:
        return total
    part = part.float() if scale is None else part.float() / scale
    return part if total is None else total.add_(part)


def _float16_scale(gradient: Tensor, states: Tensor) -> Tensor:
    """Return the power of two by which derivatives are multiplied before they are rounded to float16, a scalar.

    It is as large as the gradients of the head allow: an element of the product of the derivatives ``(C, V)`` with the
    states ``(C, width)`` is at most the sum over positions of the products of their largest elements. Without the
    factor, small probabilities times weights with a divisor of thousands would be rounded to 0.
    """
    bound = (gradient.abs().amax(dim=1) * states.abs().amax(dim=1).float().clamp_min(1.0)).sum()
    return torch.exp2(torch.floor(torch.log2(FP16_GRADIENT_LIMIT / bound.clamp_min(1e-30))))
