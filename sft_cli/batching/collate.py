"""Where a step's examples are computed: ranks and micro-batches, one padding-free row each.

Shapes: T = tokens of a micro-batch, laid end to end; N = trained positions in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft_cli.batching.bin_packing import PAIRS, Places, layout
from sft_cli.batching.packed_row import Documents, documents
from sft_cli.batching.shared_prefixes import Beginnings, common, predicting
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Tokens

PAYS = 0.05
"""Least share of a step's tokens that ``Choice.auto`` saves by computing common beginnings once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids: ``(1, T)`` int64.
        positions: ``(1, T)`` int64, counting from 0 in every example.
        documents: What lies where in the row.
        targets: ``(N,)`` int64: the ids to predict, example by example.
        target_at: ``(N,)`` int64: the position in the row that predicts each.
        target_weights: ``(N,)`` float32: factor on each loss.
        replay: ``(N,)`` bool: which targets are of replayed documents; None when the run has none.
    """

    input_ids: Tensor
    positions: Tensor
    documents: Documents
    targets: Tensor
    target_at: Tensor
    target_weights: Tensor
    replay: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; a copy from pinned memory to a card goes on behind the caller's back."""
        names = ("input_ids", "positions", "targets", "target_at", "target_weights")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        replay = None if self.replay is None else self.replay.to(device, non_blocking=True)
        return replace(self, **moved, documents=self.documents.to(device), replay=replay)

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory."""
        names = ("input_ids", "positions", "targets", "target_at", "target_weights", "replay")
        bounds = ("cu_queries", "cu_keys", "key_at", "read_at")
        return replace(
            self, **_pinned(self, names), documents=replace(self.documents, **_pinned(self.documents, bounds))
        )


def _pinned(owner: Batch | Documents, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors among these attributes, in page-locked memory."""
    tensors = {name: getattr(owner, name) for name in names}
    return {name: tensor.pin_memory() for name, tensor in tensors.items() if tensor is not None}


@dataclass(frozen=True, slots=True)
class Laid:
    """Where the examples of a step are computed.

    Attributes:
        places: ``[rank][micro-batch][place in the step]``.
        beginnings: What examples share where they lie in one micro-batch; None: nothing.
        computed_tokens: Tokens of all rows of all ranks.
    """

    places: Places
    beginnings: Beginnings | None
    computed_tokens: int


def lay(
    step: Sequence[Tokens], *, budget: int, ranks: int = 1, share: Choice = Choice.never, pairs: float = PAIRS
) -> Laid:
    """Place examples, each cut behind its last trained token: nothing depends on what follows.

    Args:
        step: The examples; those without a trained token take no room.
        budget: Most tokens of a row; 0 gives each example a row of its own, and nothing is shared.
        ranks: Number of processes.
        share: Whether common beginnings are computed once; auto: where it saves at least ``PAYS`` of the tokens.
        pairs: See ``layout``.
    """
    lengths = [int(places[-1]) + 1 if len(places) else 0 for places in map(predicting, step)]
    whole = sum(lengths)
    enough = whole if share is Choice.always else (1 - PAYS) * whole
    if share is not Choice.never and budget:
        found = common(step)
        if found.ends and found.computed(range(len(step)), lengths) <= enough:  # were all of it one row
            places = layout(lengths, budget, ranks, beginnings=found, pairs=pairs)
            computed = _computed(places, lengths, found)
            if computed <= enough:
                return Laid(places, found, computed)
    places = layout(lengths, budget, ranks, pairs=pairs)
    return Laid(places, None, _computed(places, lengths, None))


def _computed(places: Places, lengths: Sequence[int], found: Beginnings | None) -> int:
    """Tokens of all rows; an empty one holds one."""
    rows = [row for rank in places for row in rank]
    sizes = [found.computed(row, lengths) if found else sum(lengths[place] for place in row) for row in rows]
    return sum(max(1, size) for size in sizes)


def denominator(step: Sequence[Tokens], reduction: Reduction) -> float:
    """What the loss of a whole step is divided by: the sum of its trained tokens' weights, or its examples.

    An example counts when it holds a trained token.
    """
    sums = [float(tokens.weights[1:].sum(dtype=np.float64)) for tokens in step]
    return sum(sums) if reduction is Reduction.token else float(sum(own > 0 for own in sums))


def factors(
    step: Sequence[Tokens], reduction: Reduction, replayed: Sequence[bool] | None = None, replay: float | None = None
) -> list[float]:
    """What each example's loss is multiplied with, so that the loss of a whole step is the plain sum of all.

    Args:
        step: All examples of the step, on whatever rank.
        reduction: What the loss is a mean over.
        replayed: Which examples are of replayed sources; None: none.
        replay: Lambda: the mean over the replayed examples times this is added to the mean over the others; None: one
            mean over all.
    """
    if replay is None or replayed is None:
        replayed, replay = [False] * len(step), 1.0
    groups = [[tokens for tokens, own in zip(step, replayed, strict=True) if own == group] for group in (False, True)]
    divisors = [denominator(group, reduction) or 1.0 for group in groups]
    return [replay / divisors[1] if own else 1.0 / divisors[0] for own in replayed]


def collate(
    examples: Sequence[Tokens],
    reduction: Reduction,
    *,
    factors: Sequence[float] | None = None,
    replayed: Sequence[bool] | None = None,
    beginnings: Beginnings | None = None,
) -> Batch:
    """Lay examples end to end, behind what several of them begin with, each with its own positions.

    This is the one place where targets are shifted: the id at t is predicted at t - 1. What lies behind the last
    trained id of an example is nobody's input and is left out, the id itself too. Without a trained id, it is one
    token without a target.

    Args:
        examples: In the order in which their targets will stand.
        reduction: token: a target weighs what its token does; example: that by the sum over its example.
        factors: Further factors on the weights, one for each example; None: 1.
        replayed: Which examples are of replayed sources; None when the run has none.
        beginnings: What the examples share, as ``Beginnings.among`` gives it; None: nothing.
    """
    shared = Beginnings((), (), (-1,) * len(examples)) if beginnings is None else beginnings
    predicted = [predicting(tokens) for tokens in examples]
    kept = [place for place, places in enumerate(predicted) if len(places)]
    pieces = [
        *_shared_pieces(shared),
        *(Piece(i, shared.end(shared.of_example[i]), int(predicted[i][-1]) + 1, shared.of_example[i]) for i in kept),
    ]
    rows = [examples[piece.example].input_ids[piece.start : piece.end] for piece in pieces] or [np.zeros(1, np.int64)]
    begins = np.cumsum([0, *(len(row) for row in rows)])[len(shared.ends) :]
    target_at = [
        predicted[i] - shared.end(shared.of_example[i]) + begin for i, begin in zip(kept, begins, strict=False)
    ]
    at = np.concatenate([np.zeros(0, np.int64), *target_at])
    laid = documents(
        [len(row) for row in rows],
        [piece.parent for piece in pieces] if shared.ends else None,
        torch.from_numpy(np.sort(at)) if len(at) else None,
    )
    targets = [examples[i].input_ids[1:][predicted[i]] for i in kept]
    weights = [_weights(examples[i], reduction) * (1.0 if factors is None else factors[i]) for i in kept]
    marks = None if replayed is None else np.repeat([replayed[i] for i in kept], [len(predicted[i]) for i in kept])
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(rows))[None],
        positions=laid.positions,
        documents=laid,
        targets=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *targets])),
        target_at=torch.from_numpy(at),
        target_weights=torch.from_numpy(np.concatenate([np.zeros(0), *weights]).astype(np.float32)),
        replay=None if marks is None else torch.from_numpy(marks.astype(np.bool_)),
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens ``start`` to ``end`` of an example, behind the piece ``parent`` of the row; -1 for none."""

    example: int
    start: int
    end: int
    parent: int


def _shared_pieces(shared: Beginnings) -> list[Piece]:
    """The shared segments, each taken from the first example that begins with it."""
    first: dict[int, int] = {}
    for example, own in enumerate(shared.of_example):
        for segment in shared.path(own):
            first.setdefault(segment, example)
    return [Piece(first[n], shared.start(n), end, shared.parents[n]) for n, end in enumerate(shared.ends)]


def _weights(example: Tokens, reduction: Reduction) -> NDArray[np.float64]:
    """``(trained,)`` weights of an example's targets."""
    weights = example.weights[1:][predicting(example)].astype(np.float64)
    return weights if reduction is Reduction.token else weights / weights.sum()
