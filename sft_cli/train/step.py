"""One optimizer step: where its examples are computed, and the gradient of their loss."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from sft_cli.config.schema import Reduction
from sft_cli.data.prepared import Split, Tokens
from sft_cli.train.layout import Batch, collate, denominator, layout


@dataclass(frozen=True, slots=True)
class Computed:
    """What a step computed: its loss in nats (a scalar tensor), its examples, tokens and trained tokens."""

    loss: torch.Tensor
    examples: int
    tokens: int
    trained_tokens: int


def compute_gradient(
    loss_model: nn.Module,
    accelerator: Accelerator,
    split: Split,
    examples: Sequence[int],
    *,
    reduction: Reduction,
    budget: int,
    packed: bool,
) -> Computed:
    """Accumulate the gradient of a step's loss over its micro-batches.

    The loss of the whole step is one sum over one denominator, known before anything is computed: no micro-batch, rank
    or padding can change it.

    Args:
        loss_model: The prepared LossModel.
        accelerator: Owns devices and ranks.
        split: The training examples.
        examples: Indices of the step's examples, the same on every rank.
        reduction: What the loss is a mean over.
        budget: Most tokens of a micro-batch.
        packed: Whether a row may hold several examples.
    """
    step = [split.tokens(index) for index in examples]
    divisor = denominator(step, reduction)
    lengths = [len(tokens.input_ids) for tokens in step]
    mine = layout(lengths, budget if packed else 0, accelerator.num_processes)[accelerator.process_index]
    total = torch.zeros((), device=accelerator.device)
    for number, members in enumerate(mine):
        batch = collate([step[i] for i in members], reduction).to(accelerator.device)
        last = number + 1 == len(mine)
        with nullcontext() if last else accelerator.no_sync(loss_model):
            loss = loss_model(**arguments(batch)) / divisor
            # DDP averages gradients over ranks; the sum is wanted.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    return Computed(
        loss=accelerator.reduce(total, reduction="sum"),  # pyright: ignore[reportArgumentType]
        examples=len(examples),
        tokens=sum(lengths),
        trained_tokens=_trained(step),
    )


def arguments(batch: Batch) -> dict[str, torch.Tensor | int]:
    """The keyword arguments of ``LossModel.forward``."""
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


def _trained(step: Sequence[Tokens]) -> int:
    """Tokens that carry loss."""
    return int(sum((tokens.weights > 0).sum() for tokens in step))
