"""Exact loss and perplexity on held-out rows: every example counts as if it were computed alone."""

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
"""Examples planned at once: bounds the memory and the time of bin packing."""


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """The loss over a group of examples.

    Attributes:
        loss: Nats, by ``reduction``: per trained token (the mean weighted by the tokens' loss weights), or the mean
            over the examples of that mean of each.
        perplexity: e to the loss per trained token, whatever the reduction; inf above float64.
        trained_tokens: Number of tokens whose weight is not 0.
        examples: Number of examples that hold such a token.
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
    """Sums of each example, ``(examples,)`` float64: weighted nats, weights, and trained tokens."""

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
    share: bool = False,
    device: torch.device,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutLosses:
    """Compute the loss of a split, over all examples and per source, summed in float64.

    A message's weight is a factor in the numerator and in the denominator, as in training: an answer of weight 0.5
    counts half as much as one of weight 1, and a split whose weights are all 0.5 has the loss of one with weights 1.

    Args:
        loss_model: The model; autocast is the caller's.
        split: The examples; at least one.
        reduction: What the loss is a mean over.
        max_tokens: Most tokens of a micro-batch.
        packed: Whether a row may hold several examples.
        share: Whether common prefixes may be computed once, where that saves enough.
        device: The device of the model.
        indices: Examples to take; None for all.
        progress: Called after each micro-batch.
    """
    chosen = list(range(len(split)) if indices is None else indices)
    sums = example_sums(
        loss_model, split, chosen, max_tokens=max_tokens if packed else 0, share=share, device=device, progress=progress
    )
    names = split.sources
    members: dict[str, list[int]] = {}
    for place, index in enumerate(chosen):
        members.setdefault(names[index], []).append(place)
    sources = {name: _group_loss(sums, places, reduction) for name, places in members.items()}
    return HeldOutLosses(_group_loss(sums, list(range(len(chosen))), reduction), sources)


def example_sums(
    loss_model: LossModel,
    split: Split,
    indices: Sequence[int],
    *,
    max_tokens: int,
    share: bool = False,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> ExampleSums:
    """Compute the sums of each example, in the order of ``indices``.

    The examples are split over the processes of a run, and every process gets all sums.

    Args:
        loss_model: The model; autocast is the caller's.
        split: The examples.
        indices: Those to compute.
        max_tokens: Most tokens of a micro-batch; 0 puts each example into its own row.
        share: See ``heldout_loss``.
        device: The device of the model.
        progress: Called after each micro-batch.
    """
    sums, world = ExampleSums(*(np.zeros(len(indices)) for _ in range(3))), current_world()
    done = 0
    for places, examples, laid in _micro_batches(split, indices, max_tokens, Choice.auto if share else Choice.never):
        batch = laid.to(device)
        losses = loss_model.token_losses(
            batch.input_ids,
            batch.positions,
            batch.documents,
            batch.targets,
            batch.target_at,
        )
        nats = losses.double().cpu().numpy()
        start = 0
        for place, tokens in zip(places, examples, strict=True):
            weights = tokens.weights[1:][tokens.weights[1:] != 0].astype(np.float64)
            own = nats[start : start + len(weights)]
            sums.nats[place], sums.weights[place] = own @ weights, weights.sum()
            sums.trained[place] = len(weights)
            start += len(weights)
        assert start == len(nats), "every loss belongs to an example"
        done += len(places)
        if progress is not None:
            progress(min(done * world.size, len(indices)), len(indices))
    for array in (sums.nats, sums.weights, sums.trained):
        world.all_reduce_sum_array(array)
    return sums


def _micro_batches(
    split: Split, indices: Sequence[int], max_tokens: int, share: Choice
) -> Iterator[tuple[list[int], list[TokenizedExample], Batch]]:
    """Yield this rank's micro-batches, each with its indices into ``indices`` and its examples."""
    world = current_world()
    for first in range(0, len(indices), EXAMPLES_PER_PLAN):
        window = [split.tokens(index) for index in indices[first : first + EXAMPLES_PER_PLAN]]
        plan = plan_micro_batches(window, max_tokens=max_tokens, share=share, world_size=world.size)
        for row in plan.partition[world.rank]:
            examples = [window[i] for i in row]
            prefixes = None if plan.prefixes is None else plan.prefixes.restrict(row)
            batch = collate(examples, Reduction.token, prefixes=prefixes)
            yield [first + i for i in row], examples, batch


def _group_loss(sums: ExampleSums, places: Sequence[int], reduction: Reduction) -> GroupLoss:
    """Return the loss of the examples at these indices."""
    counted = [place for place in places if sums.trained[place]]
    assert counted, "a proven example has a trained token"
    nats, weights = sums.nats[counted], sums.weights[counted]
    per_token = float(nats.sum() / weights.sum())
    loss = per_token if reduction is Reduction.token else float((nats / weights).mean())
    return GroupLoss(loss, _perplexity(per_token), int(sums.trained[counted].sum()), len(counted))


def _perplexity(nats: float) -> float:
    """Return exp(loss); inf if float64 overflows."""
    return math.exp(nats) if nats < 700 else math.inf
