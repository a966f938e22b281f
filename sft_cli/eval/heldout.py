"""Loss and perplexity on held-out rows, exactly: every example counts as if it were computed alone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sft_cli.batching.collate import Batch, collate, lay
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split, Tokens
from sft_cli.distributed.process_group import here
from sft_cli.model.head.loss_model import LossModel

WINDOW = 1024
"""Examples laid out at once: bounds the memory and the time of the layout."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What some examples cost the model.

    Attributes:
        loss: Nats, by ``reduction``: per trained token (the mean weighted by the tokens' loss weights), or the mean
            over examples of each one's own such mean.
        perplexity: e to the loss per trained token, whatever the reduction; inf above float64.
        trained_tokens: Tokens whose weight is not 0, each counted once.
        examples: Examples that hold such a token.
    """

    loss: float
    perplexity: float
    trained_tokens: int
    examples: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The loss over all examples and of each source, by name in order of appearance."""

    overall: Loss
    sources: Mapping[str, Loss]


@dataclass(frozen=True, slots=True)
class Sums:
    """One entry per example, ``(examples,)`` float64: weighted nats, weights, and trained tokens."""

    nats: NDArray[np.float64]
    weights: NDArray[np.float64]
    trained: NDArray[np.float64]


def heldout_loss(
    loss_model: LossModel,
    split: Split,
    *,
    reduction: Reduction,
    budget: int,
    packed: bool,
    share: bool = False,
    device: torch.device,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """The loss of a split, over all and per source, summed in float64.

    A message's weight is a factor in the numerator and in the denominator, as in training: an answer of weight 0.5
    counts half as much as one of weight 1, and a split whose weights are all 0.5 has the loss of one with weights 1.

    Args:
        loss_model: The model; autocast is the caller's.
        split: The examples; at least one.
        reduction: What the loss is a mean over.
        budget: Most tokens computed at once.
        packed: Whether a row may hold several examples.
        share: Whether what examples begin with alike may be computed once, where that saves enough.
        device: Where the model lies.
        indices: Examples to take; None for all.
        progress: Called after each micro-batch.
    """
    chosen = list(range(len(split)) if indices is None else indices)
    sums = example_sums(
        loss_model, split, chosen, budget=budget if packed else 0, share=share, device=device, progress=progress
    )
    names = split.sources
    members: dict[str, list[int]] = {}
    for place, index in enumerate(chosen):
        members.setdefault(names[index], []).append(place)
    sources = {name: _loss(sums, places, reduction) for name, places in members.items()}
    return HeldOut(_loss(sums, list(range(len(chosen))), reduction), sources)


def example_sums(
    loss_model: LossModel,
    split: Split,
    indices: Sequence[int],
    *,
    budget: int,
    share: bool = False,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Sums:
    """What each example adds, in the order of ``indices``; a budget of 0 gives each a row of its own.

    The processes of a run compute a share each, and get all sums.
    """
    sums, ranks = Sums(*(np.zeros(len(indices)) for _ in range(3))), here()
    done = 0
    for places, examples, laid in _micro_batches(split, indices, budget, Choice.auto if share else Choice.never):
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
            progress(min(done * ranks.place.size, len(indices)), len(indices))
    for array in (sums.nats, sums.weights, sums.trained):
        ranks.add(array)
    return sums


def _micro_batches(
    split: Split, indices: Sequence[int], budget: int, share: Choice
) -> Iterator[tuple[list[int], list[Tokens], Batch]]:
    """Places in ``indices``, the examples there and how they are computed, one micro-batch after the other."""
    for first in range(0, len(indices), WINDOW):
        window = [split.tokens(index) for index in indices[first : first + WINDOW]]
        place = here().place
        laid = lay(window, budget=budget, share=share, ranks=place.size)
        for row in laid.places[place.rank]:
            examples = [window[place] for place in row]
            beginnings = None if laid.beginnings is None else laid.beginnings.among(row)
            batch = collate(examples, Reduction.token, beginnings=beginnings)
            yield [first + place for place in row], examples, batch


def _loss(sums: Sums, places: Sequence[int], reduction: Reduction) -> Loss:
    """The loss of the examples at these places."""
    counted = [place for place in places if sums.trained[place]]
    assert counted, "a proven example has a trained token"
    nats, weights = sums.nats[counted], sums.weights[counted]
    per_token = float(nats.sum() / weights.sum())
    loss = per_token if reduction is Reduction.token else float((nats / weights).mean())
    return Loss(loss, _exp(per_token), int(sums.trained[counted].sum()), len(counted))


def _exp(nats: float) -> float:
    """The exponential; inf where a float cannot hold it."""
    return math.exp(nats) if nats < 700 else math.inf
