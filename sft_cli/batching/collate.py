"""Assign the examples of a step to ranks and micro-batches, and concatenate each micro-batch without padding.

Shapes: T tokens of a micro-batch, N trained positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft_cli.batching.bin_packing import DEFAULT_PAIR_COST, Partition, partition
from sft_cli.batching.packed_row import PackedRow, pack_row
from sft_cli.batching.shared_prefixes import PrefixForest, find_shared_prefixes, target_positions
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import TokenizedExample

MIN_SAVING = 0.05
"""Fraction of a step's tokens that ``Choice.auto`` must save at least by computing common prefixes once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids: ``(1, T)`` int64.
        positions: ``(1, T)`` int64, counting from 0 in every example.
        documents: The layout of the row.
        targets: ``(N,)`` int64: the ids to predict, example by example.
        target_at: ``(N,)`` int64: the position in the row that predicts each target.
        target_weights: ``(N,)`` float32: the factor on the loss of each target.
        replay: ``(N,)`` bool: whether each target is in a replayed document; None if the run has none.
    """

    input_ids: Tensor
    positions: Tensor
    documents: PackedRow
    targets: Tensor
    target_at: Tensor
    target_weights: Tensor
    replay: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on a device; copies from pinned memory to a GPU do not block."""
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return replace(self, **tensors, documents=self.documents.to(device))

    def pin_memory(self) -> "Batch":
        """Return the same batch in page-locked memory."""
        tensors = {name: tensor.pin_memory() for name, tensor in self._tensors().items()}
        return replace(self, **tensors, documents=self.documents.pin_memory())

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors by field name."""
        names = ("input_ids", "positions", "targets", "target_at", "target_weights", "replay")
        values = {name: getattr(self, name) for name in names}
        return {name: tensor for name, tensor in values.items() if tensor is not None}


@dataclass(frozen=True, slots=True)
class MicroBatchPlan:
    """The assignment of the examples of a step to ranks and micro-batches.

    Attributes:
        partition: ``[rank][micro-batch][index in the step]``.
        prefixes: The prefixes that examples share within a micro-batch; None if nothing is shared.
        computed_tokens: Number of tokens of all rows of all ranks.
    """

    partition: Partition
    prefixes: PrefixForest | None
    computed_tokens: int


def plan_micro_batches(
    examples: Sequence[TokenizedExample],
    *,
    max_tokens: int,
    world_size: int = 1,
    share_prefixes: Choice = Choice.never,
    pair_cost: float = DEFAULT_PAIR_COST,
) -> MicroBatchPlan:
    """Assign examples to ranks and micro-batches, each cut after its last trained token: no loss depends on the rest.

    Args:
        examples: The examples of a step; those without a trained token add no tokens.
        max_tokens: Largest number of tokens of a row; 0: one example per row, and nothing is shared.
        world_size: Number of processes.
        share_prefixes: Whether common prefixes are computed once; auto: if that saves ``MIN_SAVING`` of the tokens.
        pair_cost: See ``partition``.
    """
    lengths = [int(positions[-1]) + 1 if len(positions) else 0 for positions in map(target_positions, examples)]
    total = sum(lengths)
    limit = total if share_prefixes is Choice.always else (1 - MIN_SAVING) * total
    if share_prefixes is not Choice.never and max_tokens:
        prefixes = find_shared_prefixes(examples)
        # The lower bound: all examples in one row.
        if prefixes.ends and prefixes.num_computed_tokens(range(len(examples)), lengths) <= limit:
            shared = partition(lengths, max_tokens, world_size, prefixes=prefixes, pair_cost=pair_cost)
            computed = _num_computed_tokens(shared, lengths, prefixes)
            if computed <= limit:
                return MicroBatchPlan(shared, prefixes, computed)
    plain = partition(lengths, max_tokens, world_size, pair_cost=pair_cost)
    return MicroBatchPlan(plain, None, _num_computed_tokens(plain, lengths, None))


def keys_per_token(examples: Sequence[TokenizedExample], max_tokens: int, share_prefixes: Choice) -> float:
    """Return the largest number of keys of a row per token of ``max_tokens``; above 1 if segments share prefixes."""
    plan = plan_micro_batches(examples, max_tokens=max_tokens, share_prefixes=share_prefixes)
    if plan.prefixes is None:
        return 1.0
    lengths = [len(target) and int(target[-1]) + 1 for target in map(target_positions, examples)]
    rows = [row for rank in plan.partition for row in rank]
    return max(1.0, *(plan.prefixes.restrict(row).num_keys(range(len(row)), [lengths[i] for i in row]) / max_tokens
                      for row in rows))  # fmt: skip


def _num_computed_tokens(parts: Partition, lengths: Sequence[int], prefixes: PrefixForest | None) -> int:
    """Return the number of tokens of all rows; an empty row counts as one."""
    rows = [row for rank in parts for row in rank]
    sizes = [prefixes.num_computed_tokens(row, lengths) if prefixes else sum(lengths[i] for i in row) for row in rows]
    return sum(max(1, size) for size in sizes)


def loss_denominator(examples: Sequence[TokenizedExample], reduction: Reduction) -> float:
    """Return the divisor of a step's loss: the sum of the weights of its trained tokens, or the number of its examples.

    Only examples with a trained token count.
    """
    sums = [float(tokens.weights[1:].sum(dtype=np.float64)) for tokens in examples]
    return sum(sums) if reduction is Reduction.token else float(sum(weight > 0 for weight in sums))


def example_loss_weights(
    examples: Sequence[TokenizedExample],
    reduction: Reduction,
    replayed: Sequence[bool] | None = None,
    replay_weight: float | None = None,
) -> list[float]:
    """Return a factor for each example's loss such that the loss of the whole step is the sum over its examples.

    Args:
        examples: All examples of the step, on all ranks.
        reduction: Whether the loss is a mean over tokens or examples.
        replayed: Whether each example is of a replayed source; None: none is.
        replay_weight: Lambda: the mean over the replayed examples times this is added to the mean over the others;
            None: one mean over all examples.
    """
    if replay_weight is None or replayed is None:
        replayed, replay_weight = [False] * len(examples), 1.0
    groups = [[tokens for tokens, is_replay in zip(examples, replayed, strict=True) if is_replay == group]
              for group in (False, True)]  # fmt: skip
    divisors = [loss_denominator(group, reduction) or 1.0 for group in groups]
    return [replay_weight / divisors[1] if is_replay else 1.0 / divisors[0] for is_replay in replayed]


def collate(
    examples: Sequence[TokenizedExample],
    reduction: Reduction,
    *,
    example_weights: Sequence[float] | None = None,
    replayed: Sequence[bool] | None = None,
    prefixes: PrefixForest | None = None,
) -> Batch:
    """Concatenate shared prefixes and then the examples into a row; the positions of each example start at 0.

    Targets are shifted here and nowhere else: the id at t is predicted at t - 1. The last trained id of an example and
    everything after it is not an input, and is left out. Without any trained id, the row is one token without a target.

    Args:
        examples: The examples, in the order of their targets.
        reduction: token: the weight of a target is that of its token; example: divided by the sum over its example.
        example_weights: A further factor for each example; None: 1.
        replayed: Whether each example is of a replayed source; None if the run has none.
        prefixes: The prefixes that the examples share, from ``PrefixForest.restrict``; None if there are none.
    """
    shared = PrefixForest((), (), (-1,) * len(examples)) if prefixes is None else prefixes
    predicted = [target_positions(tokens) for tokens in examples]
    kept = [i for i, positions in enumerate(predicted) if len(positions)]
    parents, ends = shared.of_example, [shared.end(segment) for segment in shared.of_example]
    ranges = [*_shared_ranges(shared), *(TokenRange(i, ends[i], int(predicted[i][-1]) + 1, parents[i]) for i in kept)]
    segments = [examples[part.example].input_ids[part.start : part.end] for part in ranges] or [np.zeros(1, np.int64)]
    starts = np.cumsum([0, *(len(segment) for segment in segments)])[len(shared.ends) :]
    target_at = [predicted[i] - ends[i] + start for i, start in zip(kept, starts, strict=False)]
    all_target_at = np.concatenate([np.zeros(0, np.int64), *target_at])
    row = pack_row(
        [len(segment) for segment in segments],
        [part.parent for part in ranges] if shared.ends else None,
        torch.from_numpy(np.sort(all_target_at)) if len(all_target_at) else None,
    )
    targets = [examples[i].input_ids[1:][predicted[i]] for i in kept]
    example_weights = [1.0] * len(examples) if example_weights is None else example_weights
    weights = [_target_weights(examples[i], reduction) * example_weights[i] for i in kept]
    replay = None if replayed is None else np.repeat([replayed[i] for i in kept], [len(predicted[i]) for i in kept])
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(segments))[None],
        positions=row.positions,
        documents=row,
        targets=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *targets])),
        target_at=torch.from_numpy(all_target_at),
        target_weights=torch.from_numpy(np.concatenate([np.zeros(0), *weights]).astype(np.float32)),
        replay=None if replay is None else torch.from_numpy(replay.astype(np.bool_)),
    )


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Tokens ``start`` to ``end`` of an example, which continue the segment ``parent`` of the row; -1 for none."""

    example: int
    start: int
    end: int
    parent: int


def _shared_ranges(shared: PrefixForest) -> list[TokenRange]:
    """Return the shared segments, each as a range of the first example that has it."""
    first: dict[int, int] = {}
    for example, last in enumerate(shared.of_example):
        for segment in shared.path(last):
            first.setdefault(segment, example)
    return [TokenRange(first[n], shared.start(n), end, shared.parents[n]) for n, end in enumerate(shared.ends)]


def _target_weights(example: TokenizedExample, reduction: Reduction) -> NDArray[np.float64]:
    """Return the ``(trained,)`` weights of an example's targets."""
    weights = example.weights[1:][target_positions(example)].astype(np.float64)
    return weights if reduction is Reduction.token else weights / weights.sum()
