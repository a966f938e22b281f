"""The objective of many positions, a chunk of logits at a time, and its gradient, which is formed at once.

The gradient by the logits is known in closed form while the logits exist, so it is carried on to the hidden states
there and then: two products with the head instead of the three that computing the logits again in the backward pass
would take, and ``(N, width)`` kept instead of ``(N, V)``.

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
from sft_cli.model.head.kl_reference import Reference
from sft_cli.model.head.logits import Rescale
from sft_cli.model.head.objective import score

CPU_CHUNK = 256
"""Most positions of a chunk on a CPU: fewer starve the products, more make every pass over the logits fetch them from
memory (measured with 32 to 600 positions at 32,000 and 151,936 words)."""
LIFT = 1024.0
"""Factor on derivatives in float16, whose smallest number is 6e-8: most probabilities would vanish."""


@dataclass(frozen=True)
class Head:
    """What turns states into logits.

    Attributes:
        module: The output embedding; ``nn.Identity`` when the states are logits already.
        rescale: What the family does to the module's result.
        chunk: Most positions whose logits exist at once.
    """

    module: nn.Module
    rescale: Rescale
    chunk: int

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of the module that are trained."""
        return [value for value in self.module.parameters() if value.requires_grad]

    def logits(self, states: Tensor) -> Tensor:
        """``(C, V)`` of states ``(C, width)``."""
        return self.rescale(self.module(states))


@dataclass(frozen=True)
class Task:
    """What is computed at the trained positions.

    Attributes:
        states: ``(N, width)``, or ``(N, V)`` logits.
        targets: ``(N,)``.
        weights: ``(N,)`` float32.
        loss: The objective.
        base: What the base gives at the same positions, for KL; else None.
        reference: How to make the base's head of the trained one.
    """

    states: Tensor
    targets: Tensor
    weights: Tensor
    loss: LossConfig
    base: Tensor | None = None
    reference: Reference | None = None

    def part(self, rows: slice, head: Head) -> tuple[Tensor, Tensor, Tensor | None]:
        """States, targets and float32 logits of the base of some positions; without a graph."""
        base = None
        if self.base is not None:
            assert self.reference is not None
            # A head that is not trained is the base's head.
            with self.reference.active() if head.trained else nullcontext(), torch.no_grad():
                base = head.logits(self.base[rows]).to(torch.float32, copy=True)
        return self.states.detach()[rows], self.targets[rows], base


class Known(torch.autograd.Function):
    """A scalar whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """``value``; ``gradients`` are those by the inputs."""
        ctx.save_for_backward(*gradients)
        ctx.types = [one.dtype for one in inputs]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
        """The known gradients, times that of the scalar."""
        found = [(one * outer[0]).to(dtype) for one, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)]
        return (None, None, *found)


def weighted_sum(head: Head, task: Task) -> tuple[Tensor, Tensor]:
    """The sum over all positions of weight x objective, with a graph, and ``(K, N)`` terms of each position without."""
    trained = head.trained
    if not torch.is_grad_enabled() or not (task.states.requires_grad or trained):
        values = plain_values(head, task)
        return (values[0] * task.weights).sum(), values
    if is_plain(head):
        values, gradients = _by_products(head, task)
    else:
        values, gradients = _through_graph(head, task, trained)
    total = (values[0] * task.weights).sum()
    loss = Known.apply(total, gradients, task.states, *trained)
    assert isinstance(loss, Tensor)
    return loss, values


def plain_values(head: Head, task: Task) -> Tensor:
    """``(K, N)`` terms, without a gradient."""
    with torch.no_grad():
        found = []
        for rows in _chunks(head, task):
            states, targets, base = task.part(rows, head)
            logits = head.logits(states).to(torch.float32, copy=True)
            found.append(score(logits, targets, task.loss, base, gradient=False).values)
        return torch.cat(found, dim=1)


def is_plain(head: Head) -> bool:
    """Whether the logits are one product with a frozen matrix, perhaps times a number."""
    module = head.module
    if type(module) is not nn.Linear or head.rescale.cap is not None:
        return False
    own = vars(module)
    # accelerate and FSDP put their work into hooks or a forward of the module's own.
    free = not own["_forward_hooks"] and not own["_forward_pre_hooks"] and "forward" not in own
    return free and not head.trained


def _chunks(head: Head, task: Task) -> list[slice]:
    """Which positions are computed together; one empty chunk for none, so that a trained head is in the graph."""
    size = min(head.chunk, CPU_CHUNK) if task.states.device.type == "cpu" else head.chunk
    return [slice(start, start + size) for start in range(0, max(len(task.states), 1), size)]


@torch.no_grad()
def _by_products(head: Head, task: Task) -> tuple[Tensor, list[Tensor]]:
    """``(K, N)`` terms, and the gradient by the states, of a frozen linear head; all chunks use the same memory."""
    module = head.module
    assert isinstance(module, nn.Linear)
    weight, bias, dtype = module.weight, module.bias, compute_dtype(module.weight)
    weight = weight.to(dtype)
    pieces = _chunks(head, task)
    most = min(pieces[0].stop, len(task.states))
    products = weight.new_empty(most, weight.shape[0])
    logits = products if dtype is torch.float32 else products.new_empty(products.shape, dtype=torch.float32)
    half = dtype is torch.float16
    kept = torch.empty_like(task.states, dtype=torch.float32 if half else task.states.dtype)
    factors = task.weights * (head.rescale.slope / (LIFT if half else 1.0))
    found = []
    for rows in pieces:
        states, targets, base = task.part(rows, head)
        own = products[: len(states)]
        with torch.autocast(own.device.type, enabled=False):
            torch.mm(states.to(dtype), weight.t(), out=own)
            if bias is not None:
                own += bias.to(dtype)
            scored = score(_rescaled(head.rescale, own, logits[: len(states)]), targets, task.loss, base)
            assert scored.gradient is not None
            own.copy_(scored.gradient.mul_(LIFT) if half else scored.gradient)
            # Weighing the narrow result is cheaper than weighing the logits.
            kept[rows] = (own @ weight) * factors[rows, None]
        found.append(scored.values)
    return torch.cat(found, dim=1), [kept]


def _rescaled(rescale: Rescale, products: Tensor, logits: Tensor) -> Tensor:
    """The float32 logits, in the memory of ``logits``, of products that were rounded to the type of the head."""
    if rescale.factor != 1.0:
        products.mul_(rescale.factor)
    if rescale.divisor != 1.0:
        products.div_(rescale.divisor)
    return logits if logits.dtype == products.dtype else logits.copy_(products)


def _through_graph(head: Head, task: Task, trained: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """The same for any head, and the gradients by its trained parameters; each chunk has a graph that ends with it."""
    found, kept = [], []
    sums: list[Tensor | None] = [None] * len(trained)
    half = compute_dtype(task.states) is torch.float16
    largest = _largest(task.weights) if half else None
    weights = task.weights if largest is None else task.weights / largest
    for rows in _chunks(head, task):
        states, targets, base = task.part(rows, head)
        with torch.enable_grad():
            leaf = states.requires_grad_()
            logits = head.logits(leaf)
        with torch.no_grad():
            scored = score(logits.detach().to(torch.float32, copy=True), targets, task.loss, base)
            assert scored.gradient is not None
            outer = scored.gradient.mul_(weights[rows, None]).to(logits.dtype)
        own, *others = torch.autograd.grad(logits, [leaf, *trained], outer, allow_unused=True)
        kept.append(own if largest is None else own.float() * largest)
        sums = [_added(total, other, largest) for total, other in zip(sums, others, strict=True)]
        found.append(scored.values)
    whole = [torch.zeros_like(own) if total is None else total for total, own in zip(sums, trained, strict=True)]
    return torch.cat(found, dim=1), [torch.cat(kept), *whole]


def _added(total: Tensor | None, part: Tensor | None, factor: Tensor | None) -> Tensor | None:
    """The sum of the gradients so far, in float32; None is zero."""
    if part is None:
        return total
    part = part.float() if factor is None else part.float() * factor
    return part if total is None else total.add_(part)


def _largest(weights: Tensor) -> Tensor:
    """The largest weight, a scalar: float16 would lose weights that hold a divisor of thousands."""
    return torch.cat([weights.abs(), weights.new_full((1,), 1e-30)]).amax()
