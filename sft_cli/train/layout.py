"""Where a step's examples are computed: ranks and micro-batches, one padding-free row each.

Shapes: T = tokens of a micro-batch, laid end to end; N = trained positions in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sft_cli.config.schema import Reduction
from sft_cli.data.prepared import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids: ``(1, T)`` int64.
        positions: ``(1, T)`` int64, counting from 0 in every example.
        cu_seqlens: ``(examples + 1,)`` int32: where examples begin, and T.
        max_document: Tokens of the longest example.
        targets: ``(N,)`` int64: the ids to predict.
        target_at: ``(N,)`` int64: the position in the row that predicts each.
        target_weights: ``(N,)`` float32: factor on each loss.
    """

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_document: int
    targets: Tensor
    target_at: Tensor
    target_weights: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        names = ("input_ids", "positions", "cu_seqlens", "targets", "target_at", "target_weights")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def layout(lengths: Sequence[int], budget: int, ranks: int = 1) -> list[list[list[int]]]:
    """Partition examples over ranks and micro-batches of at most ``budget`` tokens.

    Longest first, each example goes to the rank with the least work; in a rank, to the fullest micro-batch it fits in
    (best fit decreasing). Ranks with fewer micro-batches get empty ones, so that collectives match. An example longer
    than the budget has a micro-batch of its own.

    Returns:
        ``[rank][micro-batch][position in lengths]``.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    work = [0] * ranks
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        rank = work.index(min(work))
        shares[rank].append(i)
        work[rank] += lengths[i]
    placed = [_best_fit(share, lengths, budget) for share in shares]
    most = max(len(batches) for batches in placed)
    return [batches + [[] for _ in range(most - len(batches))] for batches in placed]


def _best_fit(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Micro-batches for examples in the given order, each into the fullest one it fits in."""
    batches: list[list[int]] = []
    left: list[int] = []
    for i in order:
        fitting = [b for b in range(len(batches)) if left[b] >= lengths[i]]
        if fitting:
            best = min(fitting, key=lambda b: left[b])
            batches[best].append(i)
            left[best] -= lengths[i]
        else:
            batches.append([i])
            left.append(budget - lengths[i])
    return batches


def denominator(step: Sequence[Tokens], reduction: Reduction) -> float:
    """What the loss of a whole step is divided by: the sum of its token weights, or its number of examples."""
    if reduction is Reduction.token:
        return float(sum(tokens.weights.sum() for tokens in step))
    return float(len(step))


def collate(examples: Sequence[Tokens], reduction: Reduction) -> Batch:
    """Lay examples end to end, each with its own positions.

    This is the one place where targets are shifted: the id at t is predicted at t - 1. The last id of an example is
    nobody's input and is left out. An empty list gives one token without a target.
    """
    rows = [tokens.input_ids[:-1] for tokens in examples if len(tokens.input_ids) > 1] or [np.zeros(1, np.int64)]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    targets, target_at, weights = [], [], []
    for start, tokens in zip(starts, (t for t in examples if len(t.input_ids) > 1), strict=False):
        trained = np.flatnonzero(tokens.weights[1:])
        scale = 1.0 if reduction is Reduction.token else 1.0 / tokens.weights.sum()
        targets.append(tokens.input_ids[1:][trained])
        target_at.append(start + trained)
        weights.append(tokens.weights[1:][trained] * scale)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(rows))[None],
        positions=torch.from_numpy(np.concatenate([np.arange(len(row)) for row in rows]))[None],
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_document=max(len(row) for row in rows),
        targets=torch.from_numpy(np.concatenate(targets or [np.zeros(0, np.int64)])),
        target_at=torch.from_numpy(np.concatenate(target_at or [np.zeros(0, np.int64)])),
        target_weights=torch.from_numpy(np.concatenate(weights or [np.zeros(0, np.float32)]).astype(np.float32)),
    )
