"""Draw the rows of an epoch from each source of the mix, by content and seed, not by file order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import DataConfig, Order, SourceConfig, StageConfig, Strategy
from sft_cli.data.mixing import apportionment, content_order, shares
from sft_cli.data.mixing.content_order import Keys


@dataclass(frozen=True)
class Pool:
    """The training rows of one source that can be drawn.

    Attributes:
        name: The source's name in the mix.
        source: Its config.
        keys: ``(rows,)`` S16 digests of the whole conversations.
        trained_tokens: ``(rows,)`` int64, over all examples of a row.
        lengths: ``(rows,)`` int64 tokens, over all examples of a row.
        scores: Score -> ``(rows,)`` float64, nan where a row has none.
    """

    name: str
    source: SourceConfig
    keys: Keys
    trained_tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class StageDraw:
    """The rows of one stage of an epoch.

    Attributes:
        name: The stage's name, or its number from 1.
        order: Order of its examples.
        difficulty: The score that ``by_difficulty`` sorts by.
        copies: Per pool ``(rows,)`` int32: times each row is in the stage.
        intended: ``(pools,)`` float64 rows that the stage should take from each pool.
    """

    name: str
    order: Order
    difficulty: str
    copies: tuple[NDArray[np.int32], ...]
    intended: NDArray[np.float64]


@dataclass(frozen=True)
class EpochDraw:
    """The rows of one epoch of a mix.

    Attributes:
        stages: In the order of training.
        by_tokens: Whether the shares of the sources are of trained tokens, not of rows.
        passes: ``(pools,)`` float64 passes over each pool if the config sets them, else nan.
    """

    stages: tuple[StageDraw, ...]
    by_tokens: bool
    passes: NDArray[np.float64]

    def copies(self, pool: int) -> NDArray[np.int32]:
        """Return ``(rows,)`` the number of times each row of a pool occurs in an epoch."""
        return np.stack([stage.copies[pool] for stage in self.stages]).sum(0, dtype=np.int32)


def subsample(keys: Keys, max_rows: int | None, seed: int, name: str) -> NDArray[np.bool_]:
    """Return ``(rows,)`` whether a row is among the ``max_rows`` that the seed selects.

    A larger ``max_rows`` only adds rows.

    Args:
        keys: ``(rows,)`` digests of the whole conversations.
        max_rows: Number of rows; None selects all.
        seed: Selects the rows.
        name: Name of the source: two sources with equal rows are sampled differently.
    """
    selected = np.zeros(len(keys), np.bool_)
    selected[content_order.shuffle_by_content(keys, seed, name)[:max_rows]] = True
    return selected


def with_empty_pools(draw: EpochDraw, is_drawn: Sequence[bool]) -> EpochDraw:
    """Return the same epoch over more pools: one that was not drawn from has no rows.

    Args:
        draw: The epoch, over the pools that were drawn from.
        is_drawn: For each pool, whether it was drawn from.
    """
    if all(is_drawn):
        return draw
    places = np.flatnonzero(is_drawn)
    stages = []
    for stage in draw.stages:
        copies = [np.zeros(0, np.int32) for _ in is_drawn]
        for place, own in zip(places.tolist(), stage.copies, strict=True):
            copies[place] = own
        intended = np.zeros(len(is_drawn))
        intended[places] = stage.intended
        stages.append(replace(stage, copies=tuple(copies), intended=intended))
    passes = np.zeros(len(is_drawn))
    passes[places] = draw.passes
    return replace(draw, stages=tuple(stages), passes=passes)


def draw_epoch(data: DataConfig, pools: Sequence[Pool], seed: int) -> EpochDraw:
    """Return how often every row occurs in each stage of an epoch.

    ``shares.compute_quotas`` gives the rows of each source in each stage. They are taken in the source's seeded order.
    Each stage continues where the previous one ended, and the order repeats at its end: no row is taken twice before
    all were taken once, and a larger quota only adds rows. A source meets its quota within one row (with
    ``strategy=trained_tokens`` within the tokens of one row) and gives at least one row, unless ``data.total_rows``
    leaves none for it.

    Raises:
        SftError: A source has no rows for its share, or ``data.total_rows`` is too small.
    """
    assert [pool.name for pool in pools] == list(data.mix), "one pool for each source, in the order of the mix"
    num_rows = np.array([len(pool.keys) for pool in pools], np.int64)
    trained = np.array([pool.trained_tokens.sum() for pool in pools], np.int64)
    quotas = shares.compute_quotas(data, num_rows, trained)
    orders = [content_order.shuffle_by_content(pool.keys, seed, pool.name) for pool in pools]
    by_tokens = data.strategy is Strategy.trained_tokens
    taken = [pool.trained_tokens[order] for pool, order in zip(pools, orders, strict=True)]
    ends = (
        apportionment.stage_ends_by_tokens(quotas, num_rows, taken)
        if by_tokens
        else apportionment.stage_ends_by_rows(quotas, num_rows)
    )
    stages = []
    for number, stage in enumerate(data.stages or [StageConfig()]):
        first = ends[number - 1] if number else np.zeros_like(ends[0])
        copies = tuple(
            _times_taken(order, end) - _times_taken(order, start)
            for order, start, end in zip(orders, first.tolist(), ends[number].tolist(), strict=True)
        )
        name = stage.name or str(number + 1)
        stages.append(StageDraw(name, stage.order, stage.difficulty, copies, quotas.rows[number]))
    return EpochDraw(tuple(stages), by_tokens, quotas.passes)


def _times_taken(order: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Return ``(rows,)`` how often each row is among the first ``count`` rows of the order, repeated without end."""
    copies = np.zeros(len(order), np.int32)
    if len(order):
        passes, remainder = divmod(count, len(order))
        copies += passes
        copies[order[:remainder]] += 1
    return copies
