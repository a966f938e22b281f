"""Exact loss and perplexity on held-out rows: the result of an example does not depend on others."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sft_cli.batching.collate import Batch, collate, plan_micro_batches
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split, TokenizedExample
from sft_cli.distributed.process_group import current_world
from sft_cli.model.head.loss_model import LossModel

EXAMPLES_PER_PLAN = 1024
"""Number of examples per call of bin packing, to limit its memory and time."""


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """The loss over a group of examples.

    Attributes:
        loss: Loss in nats, depending on ``reduction``: the mean over trained tokens, weighted by their loss weights, or
            the mean over examples of that mean of each example.
        perplexity: e to the loss per trained token, for any reduction; inf if it exceeds float64.
        trained_tokens: Number of tokens whose weight is not 0.
        examples: Number of examples with such a token.
    """

    loss: float
    perplexity: float
    trained_tokens: int
    examples: int


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """The loss over all examples and of each source, by name in order of appearance."""

    overall: GroupLoss
    sources: Mapping[str, GroupLoss]


@dataclass(frozen=True, slots=True)
class ExampleSums:
    """Sums over the tokens of each example, ``(examples,)`` float64: weighted nats, weights, and trained tokens."""

    nats: NDArray[np.float64]
    weights: NDArray[np.float64]
    trained: NDArray[np.float64]


def heldout_loss(
    loss_model: LossModel,
    split: Split,
    *,
    reduction: Reduction,
    max_tokens: int,
    packed: bool,
    share_prefixes: bool = False,
    device: torch.device,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutLosses:
    """Compute the loss of a split, over all examples and per source, summed in float64.

    A message's weight is a factor in the numerator and in the denominator, as in training: an answer of weight 0.5
    counts half as much as one of weight 1, and a split whose weights are all 0.5 has the same loss as with weights 1.

    Args:
        loss_model: The model; the caller enters autocast.
        split: The examples; at least one.
        reduction: Whether the loss is a mean over tokens or examples.
        max_tokens: Largest number of tokens of a micro-batch.
        packed: Whether a row may have several examples.
        share_prefixes: Whether common prefixes may be computed once, if that saves enough.
        device: The device of the model.
        indices: The examples to evaluate; None for all.
        progress: Called after each micro-batch.
    """
    chosen = list(range(len(split)) if indices is None else indices)
    sums = example_sums(
        loss_model,
        split,
        chosen,
        max_tokens=max_tokens if packed else 0,
        share_prefixes=share_prefixes,
        device=device,
        progress=progress,
    )
    names = split.sources
    members: dict[str, list[int]] = {}
    for position, index in enumerate(chosen):
        members.setdefault(names[index], []).append(position)
    sources = {name: _group_loss(sums, positions, reduction) for name, positions in members.items()}
    return HeldOutLosses(_group_loss(sums, list(range(len(chosen))), reduction), sources)


def example_sums(
    loss_model: LossModel,
    split: Split,
    indices: Sequence[int],
    *,
    max_tokens: int,
    share_prefixes: bool = False,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> ExampleSums:
    """Compute the sums of each example, in the order of ``indices``.

    The examples are split over the processes of a run, and every process gets all sums.

    Args:
        loss_model: The model; the caller enters autocast.
        split: The examples.
        indices: The examples to compute.
        max_tokens: Largest number of tokens of a micro-batch; 0: one example per row.
        share_prefixes: See ``heldout_loss``.
        device: The device of the model.
        progress: Called after each micro-batch.
    """
    sums, world = ExampleSums(*(np.zeros(len(indices)) for _ in range(3))), current_world()
    done = 0
    for positions, examples, cpu_batch in _micro_batches(
        split, indices, max_tokens, Choice.auto if share_prefixes else Choice.never
    ):
        batch = cpu_batch.to(device)
        losses = loss_model.token_losses(
            batch.input_ids,
            batch.positions,
            batch.documents,
            batch.targets,
            batch.target_at,
        )
        nats = losses.double().cpu().numpy()
        start = 0
        for position, tokens in zip(positions, examples, strict=True):
            weights = tokens.weights[1:][tokens.weights[1:] != 0].astype(np.float64)
            example_nats = nats[start : start + len(weights)]
            sums.nats[position], sums.weights[position] = example_nats @ weights, weights.sum()
            sums.trained[position] = len(weights)
            start += len(weights)
        assert start == len(nats), "every loss belongs to an example"
        done += len(positions)
        if progress is not None:
            progress(min(done * world.size, len(indices)), len(indices))
    for array in (sums.nats, sums.weights, sums.trained):
        world.all_reduce_sum_array(array)
    return sums


def _micro_batches(
    split: Split, indices: Sequence[int], max_tokens: int, share_prefixes: Choice
) -> Iterator[tuple[list[int], list[TokenizedExample], Batch]]:
    """Yield this rank's micro-batches, each with its indices into ``indices`` and its examples."""
    world = current_world()
    for first in range(0, len(indices), EXAMPLES_PER_PLAN):
        window = [split.tokens(index) for index in indices[first : first + EXAMPLES_PER_PLAN]]
        plan = plan_micro_batches(window, max_tokens=max_tokens, share_prefixes=share_prefixes, world_size=world.size)
        for row in plan.partition[world.rank]:
            examples = [window[i] for i in row]
            prefixes = None if plan.prefixes is None else plan.prefixes.restrict(row)
            batch = collate(examples, Reduction.token, prefixes=prefixes)
            yield [first + i for i in row], examples, batch


def _group_loss(sums: ExampleSums, positions: Sequence[int], reduction: Reduction) -> GroupLoss:
    """Return the loss of the examples at these indices."""
    with_loss = [position for position in positions if sums.trained[position]]
    assert with_loss, "a verified example has a trained token"
    nats, weights = sums.nats[with_loss], sums.weights[with_loss]
    per_token = float(nats.sum() / weights.sum())
    loss = per_token if reduction is Reduction.token else float((nats / weights).mean())
    return GroupLoss(loss, _perplexity(per_token), int(sums.trained[with_loss].sum()), len(with_loss))


def _perplexity(nats: float) -> float:
    """Return exp(loss); inf if float64 overflows."""
    return math.exp(nats) if nats < 700 else math.inf
