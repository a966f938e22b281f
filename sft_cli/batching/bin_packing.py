"""Bin packing of examples into as few micro-batches as possible, of about equal cost. Does not import torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.batching.shared_prefixes import PrefixForest

DEFAULT_PAIR_COST = 1e-4
"""Cost of one query-key pair in units of the cost of a token's linear layers (``attention_pair_cost``), for a model of
0.5B parameters; it is 4e-5 for 8B and 3e-4 for 50M."""
FAMILY_DIVISOR = 4
"""Examples with a common prefix stay together if they fit into ``1 / FAMILY_DIVISOR`` of a micro-batch."""
MAX_KEYS_PER_TOKEN = 8
"""Limit of the keys of a micro-batch, per token of its token limit.

A CUDA kernel gathers the keys and values of shared prefixes for every segment that attends to them: at this limit,
64 KB per token in a layer with 8 key heads of width 128, which is a quarter of the memory that 32 layers of width 4096
keep with full recomputation. Because of the limit, long prefixes are computed more than once: with a prefix of 2,000
tokens and 60 further tokens per example, 122 tokens per example are computed instead of 80 (2,060 without sharing)."""
MAX_BISECTIONS = 6
"""Largest number of bisections to balance the costs: the remaining imbalance is 1/64."""
BALANCE_TOLERANCE = 0.01
"""Fraction by which the most expensive micro-batch may exceed the lower bound."""

Partition = list[list[list[int]]]
"""``[rank][micro-batch][index in lengths]``."""


def attention_pair_cost(width: int, layers: int, parameters: int) -> float:
    """Return the cost of one query-key pair divided by that of a token in the linear layers.

    A pair takes 4 x width x layers operations (scores and values), a token 2 x parameters.

    Args:
        width: Number of query heads times their width.
        layers: Number of decoder layers.
        parameters: Number of parameters of the layers' matrices that are used per token.
    """
    return 2 * width * layers / parameters


def document_costs(tokens: NDArray[np.int64], pair_cost: float) -> NDArray[np.float64]:
    """Return the costs of documents, in tokens: linear layers, and attention of each token to it and earlier tokens."""
    return np.asarray(tokens + pair_cost * tokens * (tokens + 1) / 2, np.float64)


@dataclass(frozen=True, slots=True)
class PackingItem:
    """Examples that are packed together.

    Attributes:
        members: The examples.
        path: Shared segments with which all of them, and examples of other items, begin.
        tokens: Number of tokens of a row with only these examples.
        cost: The cost of that row.
        keys: Number of keys that its segments attend to, without those of ``path``.
    """

    members: tuple[int, ...]
    path: tuple[int, ...]
    tokens: int
    cost: float
    keys: int


@dataclass(frozen=True, slots=True)
class Bin:
    """A micro-batch: its examples, tokens and cost."""

    members: list[int]
    tokens: int
    cost: float


def partition(
    lengths: Sequence[int],
    max_tokens: int,
    world_size: int = 1,
    *,
    prefixes: PrefixForest | None = None,
    pair_cost: float = DEFAULT_PAIR_COST,
) -> Partition:
    """Partition examples over ranks and micro-batches of at most ``max_tokens`` computed tokens.

    There are as few micro-batches as first fit decreasing needs, the same number on each rank. To balance them, the
    most expensive examples are assigned first, each to the cheapest micro-batch; if the result is uneven, or examples
    share prefixes, bisection finds the smallest capacity with which first fit needs no more micro-batches (MULTIFIT:
    Coffman, Garey, Johnson 1978, doi:10.1137/0207001). The longest micro-batch of a rank comes first, so that it fails
    at once if memory is too small. An example longer than ``max_tokens`` gets its own micro-batch. An example without
    tokens has no cost. The keys of a micro-batch are limited by ``MAX_KEYS_PER_TOKEN``.

    Args:
        lengths: Number of tokens of each example.
        max_tokens: Largest number of tokens of a micro-batch; 0: one example per micro-batch.
        world_size: Number of processes; those with less work get empty micro-batches, so that collectives match.
        prefixes: The prefixes that examples of a micro-batch may share, if any.
        pair_cost: Cost of one query-key pair, in tokens; see ``attention_pair_cost``.
    """
    shared = prefixes or PrefixForest((), (), (-1,) * len(lengths))
    items = list(_packing_items(lengths, max_tokens, shared, pair_cost))
    packed = [
        (order, _first_fit(order, len(items), max_tokens, np.inf, shared, pair_cost))
        for order in _fill_orders(items, shared)
    ]
    items, bins = min(
        ((order, candidate) for order, candidate in packed if candidate is not None),
        key=lambda pair: (len(pair[1]), sum(bin_.tokens for bin_ in pair[1])),
    )
    rounds = max(1, -(-len(bins) // world_size))
    if len(bins) < len(items):
        bins = _balance(items, rounds * world_size, max_tokens, bins, shared, pair_cost)
    bins = sorted(bins, key=lambda bin_: (-bin_.tokens, -bin_.cost, bin_.members[0]))
    parts: Partition = [[] for _ in range(world_size)]
    work = [0.0] * world_size
    for number in range(rounds):
        least_first = sorted(range(world_size), key=lambda rank: (work[rank], rank))
        costliest_first = sorted(bins[number * world_size : (number + 1) * world_size], key=lambda bin_: -bin_.cost)
        empty = [Bin([], 0, 0.0)] * (world_size - len(costliest_first))
        for rank, bin_ in zip(least_first, [*costliest_first, *empty], strict=True):
            parts[rank].append(sorted(bin_.members))
            work[rank] += bin_.cost
    parts[0][0] += [example for example, length in enumerate(lengths) if not length]
    return parts


def _packing_items(
    lengths: Sequence[int], max_tokens: int, prefixes: PrefixForest, pair_cost: float
) -> Iterator[PackingItem]:
    """Yield the examples that have tokens; those with a common prefix form an item if ``FAMILY_DIVISOR`` allows it."""
    members: list[list[int]] = [[] for _ in prefixes.ends]
    for example, last in enumerate(prefixes.of_example):
        for segment in prefixes.path(last):
            members[segment].append(example)
    tokens = [prefixes.num_computed_tokens(group, lengths) for group in members]
    keys = [prefixes.num_keys(group, lengths) for group in members]
    family_of: dict[int, int] = {}  # segment -> the topmost ancestor whose examples fit together
    for segment, parent in enumerate(prefixes.parents):
        size = max(tokens[segment], -(-keys[segment] // MAX_KEYS_PER_TOKEN))
        if parent in family_of or size * FAMILY_DIVISOR <= max_tokens:
            family_of[segment] = family_of.get(parent, segment)
    for segment in dict.fromkeys(family_of.values()):
        path = tuple(prefixes.path(prefixes.parents[segment]))
        cost = _row_cost(members[segment], lengths, prefixes, pair_cost)
        own_keys = keys[segment] - sum(prefixes.ends[ancestor] for ancestor in path)
        yield PackingItem(tuple(members[segment]), path, tokens[segment], cost, own_keys)
    for example, (length, segment) in enumerate(zip(lengths, prefixes.of_example, strict=True)):
        if length and segment not in family_of:
            cost = float(document_costs(np.array(length), pair_cost))
            yield PackingItem((example,), tuple(prefixes.path(segment)), length, cost, length)


def _row_cost(members: Sequence[int], lengths: Sequence[int], prefixes: PrefixForest, pair_cost: float) -> float:
    """Return the cost of a row: each segment adds the cost up to its end minus the cost up to its start."""
    used = sorted({segment for member in members for segment in prefixes.path(prefixes.of_example[member])})
    ends = [prefixes.ends[segment] for segment in used] + [lengths[member] for member in members]
    starts = [prefixes.start(segment) for segment in used]
    starts += [prefixes.end(prefixes.of_example[member]) for member in members]
    return float(
        np.sum(document_costs(np.array(ends), pair_cost)) - np.sum(document_costs(np.array(starts), pair_cost))
    )


def _fill_orders(items: Sequence[PackingItem], prefixes: PrefixForest) -> list[list[PackingItem]]:
    """Return orders for packing in which items with a common root are adjacent: by longest item and by total tokens."""
    longest: dict[int, int] = {}
    total: dict[int, int] = {}
    families = [item.path[0] if item.path else -1 - number for number, item in enumerate(items)]
    for family, item in zip(families, items, strict=True):
        longest[family] = max(longest.get(family, 0), item.tokens)
        total[family] = total.get(family, 0) + item.tokens
    numbers = range(len(items))
    orders = []
    for size in (longest, total) if prefixes.ends else (longest,):
        key = {n: (-size[families[n]], families[n], -items[n].tokens, items[n].members[0]) for n in numbers}
        orders.append([items[n] for n in sorted(numbers, key=key.__getitem__)])
    return orders


def _first_fit(
    items: Sequence[PackingItem],
    max_bins: int,
    max_tokens: int,
    max_cost: float,
    prefixes: PrefixForest,
    pair_cost: float,
    *,
    spread: bool = False,
) -> list[Bin] | None:
    """Pack items into at most ``max_bins`` bins within the limits of tokens, keys and cost; None if they do not fit.

    Each item goes into the first fitting bin that contains most of its path or, with ``spread``, into the cheapest
    fitting bin. An item that exceeds the limits gets its own bin.
    """
    tokens, keys, costs = np.zeros(max_bins, np.int64), np.zeros(max_bins, np.int64), np.zeros(max_bins)
    segment_bins: dict[int, NDArray[np.bool_]] = {}
    members: list[list[int]] = [[] for _ in range(max_bins)]
    opened = max_bins if spread else 1
    for item in items:
        present = np.zeros(min(opened, max_bins), np.int64)  # tokens of the path that a bin already contains
        added_keys = np.full(len(present), item.keys)
        for segment in item.path:
            has_segment = segment_bins.setdefault(segment, np.zeros(max_bins, np.bool_))[:opened]
            present[has_segment] = prefixes.ends[segment]
            added_keys[~has_segment] += prefixes.ends[segment]
        added_cost = item.cost - document_costs(present, pair_cost)
        within = tokens[:opened] + item.tokens - present <= max_tokens
        within &= costs[:opened] + added_cost <= max_cost
        within &= keys[:opened] + added_keys <= MAX_KEYS_PER_TOKEN * max_tokens
        fits = np.flatnonzero(within | (tokens[:opened] == 0))
        if not len(fits):
            return None
        best = int(fits[costs[fits].argmin() if spread else present[fits].argmax()])
        opened += best + 1 == opened and not spread
        tokens[best] += item.tokens - present[best]
        keys[best] += added_keys[best]
        costs[best] += added_cost[best]
        members[best] += item.members
        for segment in item.path:
            segment_bins[segment][best] = True
    filled = zip(members, tokens.tolist(), costs.tolist(), strict=True)
    return [Bin(bin_members, bin_tokens, bin_cost) for bin_members, bin_tokens, bin_cost in filled if bin_members]


def _balance(
    items: Sequence[PackingItem],
    max_bins: int,
    max_tokens: int,
    bins: list[Bin],
    prefixes: PrefixForest,
    pair_cost: float,
) -> list[Bin]:
    """Return at most ``max_bins`` bins with the smallest sufficient cost limit, found by bisection."""
    upper = max(bin_.cost for bin_ in bins)
    lower = max(sum(bin_.cost for bin_ in bins) / max_bins, max(item.cost for item in items))
    if not prefixes.ends:
        spread = _first_fit(items, max_bins, max_tokens, upper, prefixes, pair_cost, spread=True)
        if spread is not None:
            bins, upper = spread, max(bin_.cost for bin_ in spread)
    for _ in range(MAX_BISECTIONS):
        if upper <= (1 + BALANCE_TOLERANCE) * lower:
            break
        middle = (lower + upper) / 2
        candidate = _first_fit(items, max_bins, max_tokens, middle, prefixes, pair_cost)
        if candidate is None:
            lower = middle
        else:
            bins, upper = candidate, max(bin_.cost for bin_ in candidate)
    return bins
