"""Exact loss and perplexity on held-out rows: the result of an example does not depend on others."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sft_cli.batching.collate import Batch, collate, plan_micro_batches
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split, TokenizedExample
from sft_cli.distributed.process_group import current_world
from sft_cli.eval.heldout_groups import MAX_TURNS, TURN, group_members, turn_name
from sft_cli.model.head.loss_model import LossModel
from sft_cli.scoring.statistics import estimate_mean

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
        low: Lower end of the 95% interval of the loss; None if there is none.
        high: Its upper end.
    """

    loss: float
    perplexity: float
    trained_tokens: int
    examples: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """The loss over all examples.

    Attributes:
        overall: The loss over all examples.
        sources: The loss of each source, by name in order of appearance.
        groups: The loss by turn, by length and by each tag, and there by value; empty if the tags are not known.
    """

    overall: GroupLoss
    sources: Mapping[str, GroupLoss]
    groups: Mapping[str, Mapping[str, GroupLoss]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExampleSums:
    """Sums over the tokens of each example, ``(examples,)`` float64: weighted nats, weights, and trained tokens.

    Attributes:
        nats: Weighted nats.
        weights: Loss weights.
        trained: Trained tokens.
        turns: ``(3, MAX_TURNS, examples)``: the same of each turn, a run of trained tokens.
    """

    nats: NDArray[np.float64]
    weights: NDArray[np.float64]
    trained: NDArray[np.float64]
    turns: NDArray[np.float64]

    def of_turn(self, turn: int) -> "ExampleSums":
        """Return the sums over the tokens of one turn, from 0."""
        nats, weights, trained = self.turns[:, turn]
        return ExampleSums(nats, weights, trained, self.turns)


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
    tags: Sequence[Mapping[str, str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutLosses:
    """Compute the loss of a split, over all examples, per source and by group, summed in float64.

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
        tags: The tags of every example of the split; None: no losses by group.
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
    groups = {}
    if tags is not None:
        found = group_members([tags[index] for index in chosen], split.lengths[chosen].tolist())
        groups = {group: {value: _group_loss(sums, members, reduction) for value, members in values.items()}
                  for group, values in found.items()}  # fmt: skip
        groups[TURN] = _turn_losses(sums, reduction)
    return HeldOutLosses(_group_loss(sums, list(range(len(chosen))), reduction), sources, groups)


def _turn_losses(sums: ExampleSums, reduction: Reduction) -> dict[str, GroupLoss]:
    """Return the loss of each turn."""
    turns = {turn_name(turn): sums.of_turn(turn) for turn in range(MAX_TURNS)}
    everyone = range(len(sums.nats))
    return {name: _group_loss(own, everyone, reduction) for name, own in turns.items() if own.trained.any()}


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
    number = len(indices)
    sums = ExampleSums(np.zeros(number), np.zeros(number), np.zeros(number), np.zeros((3, MAX_TURNS, number)))
    world = current_world()
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
            turn = _turns(tokens)
            for row, values in enumerate((example_nats * weights, weights, np.ones_like(weights))):
                sums.turns[row, :, position] = np.bincount(turn, values, MAX_TURNS)
            start += len(weights)
        assert start == len(nats), "every loss belongs to an example"
        done += len(positions)
        if progress is not None:
            progress(min(done * world.size, len(indices)), len(indices))
    for array in (sums.nats, sums.weights, sums.trained, sums.turns):
        world.all_reduce_sum_array(array)
    return sums


def _turns(tokens: TokenizedExample) -> NDArray[np.int64]:
    """Return the turn of each trained token, from 0: the number of the run of trained tokens that it is in."""
    at = np.flatnonzero(tokens.weights[1:])
    return np.minimum(np.cumsum(np.diff(at, prepend=at[:1]) > 1), MAX_TURNS - 1)


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
    # The interval of a ratio of sums is that of the mean of its linearization (Cochran 1977, Sampling Techniques, 6.3).
    linear = loss + (nats - loss * weights) / weights.mean() if reduction is Reduction.token else nats / weights
    found = estimate_mean(linear.tolist())
    return GroupLoss(
        loss, _perplexity(per_token), int(sums.trained[with_loss].sum()), len(with_loss), found.low, found.high
    )


def _perplexity(nats: float) -> float:
    """Return exp(loss); inf if float64 overflows."""
    return math.exp(nats) if nats < 700 else math.inf
