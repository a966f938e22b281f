"""Bin packing of examples into micro-batches: as few as the token limit allows, of about equal cost. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.batching.shared_prefixes import PrefixForest

DEFAULT_PAIR_COST = 1e-4
"""Cost of one query-key pair, in costs of a token's linear layers: see ``attention_pair_cost``. That of a model of 0.5B
parameters; 4e-5 at 8B, 3e-4 at 50M."""
FAMILY_DIVISOR = 4
"""Examples with a common prefix stay together when they fit into ``1 / FAMILY_DIVISOR`` of a micro-batch."""
MAX_KEYS_PER_TOKEN = 8
"""Most keys of a micro-batch, for each token it may have.

A kernel on CUDA gathers the keys and values of shared prefixes for every segment that sees them: at this limit, 64 KB a
token in a layer with 8 key heads of width 128, a quarter of what 32 layers of width 4096 keep with full recomputation.
Long prefixes are computed more often for it. With one of 2,000 tokens and examples of 60 more, 122 tokens of an example
are computed instead of 80, and 2,060 where nothing is shared."""
MAX_BISECTIONS = 6
"""Most attempts to even out the costs: the remaining imbalance is 1/64."""
BALANCE_TOLERANCE = 0.01
"""Fraction by which the costliest micro-batch may exceed the lower bound."""

Partition = list[list[list[int]]]
"""``[rank][micro-batch][index in lengths]``."""


def attention_pair_cost(width: int, layers: int, parameters: int) -> float:
    """Return the cost of one query-key pair over that of a token in the linear layers of the blocks.

    4 x width x layers operations (scores and values) over 2 x parameters.

    Args:
        width: Query heads times their width.
        layers: Decoder layers.
        parameters: Parameters of the layers' matrices used per token.
    """
    return 2 * width * layers / parameters


def document_costs(tokens: NDArray[np.int64], pair_cost: float) -> NDArray[np.float64]:
    """Return the costs of documents, in tokens: linear layers per token, and attention to it and all earlier ones."""
    return np.asarray(tokens + pair_cost * tokens * (tokens + 1) / 2, np.float64)


@dataclass(frozen=True, slots=True)
class PackingItem:
    """Examples that are packed together.

    Attributes:
        members: The examples.
        path: Shared segments that all of them, and examples of other items, begin with.
        tokens: Tokens of a row with only these examples.
        cost: Its cost.
        keys: Keys that its segments see, without those of ``path``.
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
    costliest examples go first into the cheapest micro-batch; where that is uneven, or examples share prefixes, the
    least capacity is searched with which first fit needs no more micro-batches (MULTIFIT: Coffman, Garey, Johnson 1978,
    doi:10.1137/0207001). The longest micro-batch of a rank comes first, so that a lack of memory shows at once.
    An example longer than ``max_tokens`` gets its own micro-batch. An example without tokens has no cost. The keys of a
    micro-batch are bounded too, see ``MAX_KEYS_PER_TOKEN``.

    Args:
        lengths: Tokens of each example.
        max_tokens: Most tokens of a micro-batch; 0: each example has its own.
        world_size: Number of processes; those with less work get empty micro-batches, so that collectives match.
        prefixes: What examples of one micro-batch share; None: nothing.
        pair_cost: Cost of one query-key pair, in tokens; see ``attention_pair_cost``.
    """
    shared = prefixes or PrefixForest((), (), (-1,) * len(lengths))
    items = list(_packing_items(lengths, max_tokens, shared, pair_cost))
    packed = [
        (order, _first_fit(order, len(items), max_tokens, np.inf, shared, pair_cost))
        for order in _fill_orders(items, shared)
    ]
    items, bins = min(
        ((order, found) for order, found in packed if found is not None),
        key=lambda pair: (len(pair[1]), sum(one.tokens for one in pair[1])),
    )
    rounds = max(1, -(-len(bins) // world_size))
    if len(bins) < len(items):
        bins = _balance(items, rounds * world_size, max_tokens, bins, shared, pair_cost)
    bins = sorted(bins, key=lambda one: (-one.tokens, -one.cost, one.members[0]))
    parts: Partition = [[] for _ in range(world_size)]
    work = [0.0] * world_size
    for number in range(rounds):
        least_first = sorted(range(world_size), key=lambda rank: (work[rank], rank))
        costliest_first = sorted(bins[number * world_size : (number + 1) * world_size], key=lambda one: -one.cost)
        empty = [Bin([], 0, 0.0)] * (world_size - len(costliest_first))
        for rank, one in zip(least_first, [*costliest_first, *empty], strict=True):
            parts[rank].append(sorted(one.members))
            work[rank] += one.cost
    parts[0][0] += [example for example, length in enumerate(lengths) if not length]
    return parts


def _packing_items(
    lengths: Sequence[int], max_tokens: int, prefixes: PrefixForest, pair_cost: float
) -> Iterator[PackingItem]:
    """Yield the examples that have tokens, those with a common prefix together as far as ``FAMILY_DIVISOR`` allows."""
    members: list[list[int]] = [[] for _ in prefixes.ends]
    for example, last in enumerate(prefixes.of_example):
        for segment in prefixes.path(last):
            members[segment].append(example)
    tokens = [prefixes.num_computed_tokens(own, lengths) for own in members]
    keys = [prefixes.num_keys(own, lengths) for own in members]
    together: dict[int, int] = {}  # segment -> its topmost ancestor whose examples fit together
    for segment, parent in enumerate(prefixes.parents):
        size = max(tokens[segment], -(-keys[segment] // MAX_KEYS_PER_TOKEN))
        if parent in together or size * FAMILY_DIVISOR <= max_tokens:
            together[segment] = together.get(parent, segment)
    for segment in dict.fromkeys(together.values()):
        path = tuple(prefixes.path(prefixes.parents[segment]))
        cost = _row_cost(members[segment], lengths, prefixes, pair_cost)
        own_keys = keys[segment] - sum(prefixes.ends[above] for above in path)
        yield PackingItem(tuple(members[segment]), path, tokens[segment], cost, own_keys)
    for example, (length, segment) in enumerate(zip(lengths, prefixes.of_example, strict=True)):
        if length and segment not in together:
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
    """Return packing orders, families (items with a common root) together: by longest item, and by total tokens."""
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
    """Pack items into at most ``max_bins`` bins within the limits of tokens, keys, cost; None where too few.

    Of the bins it fits in, each item goes into the first one that holds most of its path or, with ``spread``, into the
    cheapest. An item that exceeds the limits gets its own bin.
    """
    tokens, keys, costs = np.zeros(max_bins, np.int64), np.zeros(max_bins, np.int64), np.zeros(max_bins)
    holds: dict[int, NDArray[np.bool_]] = {}
    members: list[list[int]] = [[] for _ in range(max_bins)]
    opened = max_bins if spread else 1
    for item in items:
        present = np.zeros(min(opened, max_bins), np.int64)  # tokens of the path that a bin already holds
        added_keys = np.full(len(present), item.keys)
        for segment in item.path:
            held = holds.setdefault(segment, np.zeros(max_bins, np.bool_))[:opened]
            present[held] = prefixes.ends[segment]
            added_keys[~held] += prefixes.ends[segment]
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
            holds[segment][best] = True
    filled = zip(members, tokens.tolist(), costs.tolist(), strict=True)
    return [Bin(own, own_tokens, own_cost) for own, own_tokens, own_cost in filled if own]


def _balance(
    items: Sequence[PackingItem],
    max_bins: int,
    max_tokens: int,
    bins: list[Bin],
    prefixes: PrefixForest,
    pair_cost: float,
) -> list[Bin]:
    """Return at most ``max_bins`` bins with the smallest sufficient cost limit, found by bisection."""
    upper = max(one.cost for one in bins)
    lower = max(sum(one.cost for one in bins) / max_bins, max(item.cost for item in items))
    if not prefixes.ends:
        spread = _first_fit(items, max_bins, max_tokens, upper, prefixes, pair_cost, spread=True)
        if spread is not None:
            bins, upper = spread, max(one.cost for one in spread)
    for _ in range(MAX_BISECTIONS):
        if upper <= (1 + BALANCE_TOLERANCE) * lower:
            break
        middle = (lower + upper) / 2
        found = _first_fit(items, max_bins, max_tokens, middle, prefixes, pair_cost)
        if found is None:
            lower = middle
        else:
            bins, upper = found, max(one.cost for one in found)
    return bins
