"""Examples over ranks and micro-batches: as few as the budget allows, and about equally expensive. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.batching.shared_prefixes import Beginnings

PAIRS = 1e-4
"""Cost of a query seeing a key, in costs of a token's linear layers: see ``pair_cost``. That of a model of 0.5B
parameters; 4e-5 at 8B, 3e-4 at 50M."""
UNTORN = 4
"""Examples with a common beginning stay together when they fit into this part of a micro-batch."""
HALVINGS = 6
"""Most trials for evening out: what is left of the unevenness is 1/64."""
EVEN = 0.01
"""Share by which the costliest micro-batch may exceed what is possible."""

Places = list[list[list[int]]]
"""``[rank][micro-batch][position in lengths]``."""


def pair_cost(width: int, layers: int, parameters: int) -> float:
    """Cost of a query seeing a key over that of a token in the linear layers of the blocks.

    4 x width x layers operations (scores and values) over 2 x parameters.

    Args:
        width: Query heads times their width.
        layers: Decoder layers.
        parameters: Parameters of the layers' matrices that a token goes through.
    """
    return 2 * width * layers / parameters


def cost(tokens: NDArray[np.int64], pairs: float) -> NDArray[np.float64]:
    """Costs of documents, in tokens: linear layers for each token, and attention to itself and all before it."""
    return np.asarray(tokens + pairs * tokens * (tokens + 1) / 2, np.float64)


@dataclass(frozen=True, slots=True)
class Unit:
    """Examples that are placed together.

    Attributes:
        members: The examples.
        path: Shared segments that all of them begin with, and that other units begin with, too.
        tokens: Tokens of a row of them alone.
        cost: Its cost.
    """

    members: tuple[int, ...]
    path: tuple[int, ...]
    tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class Bin:
    """A micro-batch: its examples, tokens and cost."""

    members: list[int]
    tokens: int
    cost: float


def layout(
    lengths: Sequence[int],
    budget: int,
    ranks: int = 1,
    *,
    beginnings: Beginnings | None = None,
    pairs: float = PAIRS,
) -> Places:
    """Partition examples over ranks and micro-batches of at most ``budget`` computed tokens.

    As few micro-batches as first fit decreasing needs for that, the same number on each rank. To make them about equal,
    the costliest examples go first to the cheapest micro-batch; where that is uneven, or examples share, the least
    capacity is sought with which first fit needs no more (MULTIFIT: Coffman, Garey, Johnson 1978, doi:10.1137/0207001).
    The longest micro-batch of a rank comes first: what does not fit into memory fails at once.
    An example longer than the budget has a micro-batch of its own. An example of no length has no cost anywhere.

    Args:
        lengths: Tokens of each example.
        budget: Most tokens of a micro-batch; 0: each example has its own.
        ranks: Number of processes; those with less work get empty micro-batches, so that collectives match.
        beginnings: What examples share in a micro-batch that holds them; None: nothing.
        pairs: Cost of a query seeing a key, in tokens; see ``pair_cost``.
    """
    shared = beginnings or Beginnings((), (), (-1,) * len(lengths))
    units = list(_units(lengths, budget, shared, pairs))
    packed = [(order, _fill(order, len(units), budget, np.inf, shared, pairs)) for order in _orders(units, shared)]
    units, bins = min(
        ((order, found) for order, found in packed if found is not None),
        key=lambda pair: (len(pair[1]), sum(own.tokens for own in pair[1])),
    )
    rounds = max(1, -(-len(bins) // ranks))
    if len(bins) < len(units):
        bins = _evened(units, rounds * ranks, budget, bins, shared, pairs)
    bins = sorted(bins, key=lambda own: (-own.tokens, -own.cost, own.members[0]))
    placed: Places = [[] for _ in range(ranks)]
    work = [0.0] * ranks
    for number in range(rounds):
        least_first = sorted(range(ranks), key=lambda rank: (work[rank], rank))
        costliest_first = sorted(bins[number * ranks : (number + 1) * ranks], key=lambda own: -own.cost)
        empty = [Bin([], 0, 0.0)] * (ranks - len(costliest_first))
        for rank, own in zip(least_first, [*costliest_first, *empty], strict=True):
            placed[rank].append(sorted(own.members))
            work[rank] += own.cost
    placed[0][0] += [place for place, length in enumerate(lengths) if not length]
    return placed


def _units(lengths: Sequence[int], budget: int, shared: Beginnings, pairs: float) -> Iterator[Unit]:
    """The examples that have a length, those with a common beginning together as far as ``UNTORN`` allows."""
    below: list[list[int]] = [[] for _ in shared.ends]
    for place, segment in enumerate(shared.of_example):
        for above in shared.path(segment):
            below[above].append(place)
    tokens = [shared.computed(members, lengths) for members in below]
    whole: dict[int, int] = {}  # the topmost segment of those small enough, for each segment beneath it
    for segment, parent in enumerate(shared.parents):
        if parent in whole or tokens[segment] * UNTORN <= budget:
            whole[segment] = whole.get(parent, segment)
    for segment in dict.fromkeys(whole.values()):
        path = tuple(shared.path(shared.parents[segment]))
        yield Unit(tuple(below[segment]), path, tokens[segment], _cost(below[segment], lengths, shared, pairs))
    for place, (length, segment) in enumerate(zip(lengths, shared.of_example, strict=True)):
        if length and segment not in whole:
            yield Unit((place,), tuple(shared.path(segment)), length, float(cost(np.array(length), pairs)))


def _cost(members: Sequence[int], lengths: Sequence[int], shared: Beginnings, pairs: float) -> float:
    """Cost of a row of these examples: a segment costs what its end does less what its start does."""
    used = sorted({segment for member in members for segment in shared.path(shared.of_example[member])})
    ends = [shared.ends[segment] for segment in used] + [lengths[member] for member in members]
    starts = [shared.start(segment) for segment in used] + [shared.end(shared.of_example[member]) for member in members]
    return float(np.sum(cost(np.array(ends), pairs)) - np.sum(cost(np.array(starts), pairs)))


def _orders(units: Sequence[Unit], shared: Beginnings) -> list[list[Unit]]:
    """Orders to fill in, families (units that begin alike) together: by their longest unit, and by all their tokens."""
    longest: dict[int, int] = {}
    total: dict[int, int] = {}
    families = [unit.path[0] if unit.path else -1 - number for number, unit in enumerate(units)]
    for family, unit in zip(families, units, strict=True):
        longest[family] = max(longest.get(family, 0), unit.tokens)
        total[family] = total.get(family, 0) + unit.tokens
    numbers = range(len(units))
    orders = []
    for size in (longest, total) if shared.ends else (longest,):
        key = {n: (-size[families[n]], families[n], -units[n].tokens, units[n].members[0]) for n in numbers}
        orders.append([units[n] for n in sorted(numbers, key=key.__getitem__)])
    return orders


def _fill(
    units: Sequence[Unit],
    most: int,
    budget: int,
    capacity: float,
    shared: Beginnings,
    pairs: float,
    *,
    spread: bool = False,
) -> list[Bin] | None:
    """At most so many bins within the budget and the capacity in cost; None when they do not suffice.

    Each unit goes, of the bins it fits in, into the first of those that hold most of its path, or, to be ``spread``,
    into the cheapest. One that fits nowhere has a bin of its own.
    """
    tokens, costs = np.zeros(most, np.int64), np.zeros(most)
    holds: dict[int, NDArray[np.bool_]] = {}
    members: list[list[int]] = [[] for _ in range(most)]
    opened = most if spread else 1
    for unit in units:
        there = np.zeros(min(opened, most), np.int64)  # tokens of the path that a bin holds already
        for segment in unit.path:
            there[holds.setdefault(segment, np.zeros(most, np.bool_))[:opened]] = shared.ends[segment]
        more = unit.cost - cost(there, pairs)
        room = (tokens[:opened] + unit.tokens - there <= budget) & (costs[:opened] + more <= capacity)
        fits = np.flatnonzero(room | (tokens[:opened] == 0))
        if not len(fits):
            return None
        best = int(fits[costs[fits].argmin() if spread else there[fits].argmax()])
        opened += best + 1 == opened and not spread
        tokens[best] += unit.tokens - there[best]
        costs[best] += more[best]
        members[best] += unit.members
        for segment in unit.path:
            holds[segment][best] = True
    filled = zip(members, tokens.tolist(), costs.tolist(), strict=True)
    return [Bin(own, own_tokens, own_cost) for own, own_tokens, own_cost in filled if own]


def _evened(
    units: Sequence[Unit], number: int, budget: int, bins: list[Bin], shared: Beginnings, pairs: float
) -> list[Bin]:
    """At most ``number`` bins of the least capacity that was found to suffice."""
    most = max(own.cost for own in bins)
    least = max(sum(own.cost for own in bins) / number, max(unit.cost for unit in units))
    if not shared.ends and (spread := _fill(units, number, budget, most, shared, pairs, spread=True)) is not None:
        bins, most = spread, max(own.cost for own in spread)
    for _ in range(HALVINGS):
        if most <= (1 + EVEN) * least:
            break
        capacity = (least + most) / 2
        found = _fill(units, number, budget, capacity, shared, pairs)
        if found is None:
            least = capacity
        else:
            bins, most = found, max(own.cost for own in found)
    return bins
