"""Round the quotas of a mix to whole rows: totals that add up, and the end of each stage in a source's order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quotas:
    """The quotas of a mix, before they are rounded to whole rows.

    Attributes:
        rows: ``(stages, sources)`` float64 rows of an epoch, including repeats.
        passes: ``(sources,)`` float64 passes over a source if the config sets them, else nan.
        fixed: ``(sources,)`` whether ``epochs`` sets the passes.
        exact: Total rows of the sources without ``epochs``, or None.
    """

    rows: NDArray[np.float64]
    passes: NDArray[np.float64]
    fixed: NDArray[np.bool_]
    exact: int | None


def apportion(quotas: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Return integers of sum ``total``, each within one of its quota, by the method of largest remainders.

    The method is Hamilton's (1792).

    Args:
        quotas: ``(parts,)`` of sum ``total``; among equal remainders the first is rounded up.
        total: The sum.
    """
    integers = np.floor(quotas + 1e-9).astype(np.int64)
    remainder = total - int(integers.sum())
    assert 0 <= remainder <= len(quotas), f"quotas of sum {quotas.sum()} for a total of {total}"
    integers[np.argsort(-np.round(quotas - integers, 9), kind="stable")[:remainder]] += 1
    return integers


def at_least_one(rows: NDArray[np.float64], num_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(sources,)`` rounded rows, at least one for a source that has any."""
    return np.maximum(np.rint(rows).astype(np.int64), np.minimum(num_rows, 1))


def stage_ends_by_rows(quotas: Quotas, num_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(stages, sources)`` rows of each source that are taken up to the end of each stage.

    Args:
        quotas: The quotas of the mix.
        num_rows: ``(sources,)`` available rows.
    """
    totals = np.cumsum(quotas.rows, axis=0)
    last = at_least_one(totals[-1], num_rows)
    if quotas.exact is not None:
        free = ~quotas.fixed
        last[free] = apportion(totals[-1][free], quotas.exact)
    ends = np.rint(_fractions_of_last(totals) * last).astype(np.int64)
    ends[-1] = last
    return ends


def stage_ends_by_tokens(
    quotas: Quotas, num_rows: NDArray[np.int64], trained: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the ends of ``stage_ends_by_rows``, with sources without ``epochs`` ended by trained tokens.

    Each source ends nearest to its intended trained tokens: its rows times its mean number of trained tokens.

    Args:
        quotas: The quotas of the mix.
        num_rows: ``(sources,)`` available rows.
        trained: Per source ``(rows,)`` trained tokens in the order in which rows are taken.
    """
    ends = stage_ends_by_rows(quotas, num_rows)
    free_sources = np.flatnonzero(~quotas.fixed).tolist()
    queues = [_Queue(trained[source]) for source in free_sources]
    totals = np.cumsum(quotas.rows, axis=0)[:, free_sources]
    intended = totals[-1] * [queue.total / queue.num_rows for queue in queues]
    if quotas.exact is None:
        last = [max(1, queue.rows(tokens)) for queue, tokens in zip(queues, intended, strict=True)]
    else:
        last = _exact_rows(queues, intended, quotas.exact)
    parts = _fractions_of_last(totals)
    for index, (source, queue) in enumerate(zip(free_sources, queues, strict=True)):
        within = parts[:, index] * queue.tokens(last[index])
        ends[:, source] = [min(queue.rows(tokens), last[index]) for tokens in within]
        ends[-1, source] = last[index]
    return ends


def _fractions_of_last(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return running totals ``(stages, sources)`` as fractions of the last one."""
    return totals / np.where(totals[-1] > 0, totals[-1], 1)


class _Queue:
    """The trained tokens of a source's rows in the order in which they are taken, repeated without end."""

    def __init__(self, trained: NDArray[np.int64]) -> None:
        self._sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(trained)])
        self._middles = (self._sums[:-1] + self._sums[1:]) / 2
        self.num_rows, self.total = len(trained), int(self._sums[-1])

    def rows(self, tokens: float) -> int:
        """Return the number of rows whose trained tokens are nearest to ``tokens``, the smaller on a tie."""
        whole = round(tokens)
        tokens = whole if abs(tokens - whole) <= 1e-9 * max(1, whole) else tokens  # undo rounding errors of divisions
        passes, remainder = divmod(tokens, self.total)
        return int(passes) * self.num_rows + int(np.searchsorted(self._middles, remainder, side="left"))

    def tokens(self, rows: int) -> int:
        """Return the trained tokens of the first ``rows`` rows."""
        passes, remainder = divmod(rows, self.num_rows)
        return passes * self.total + int(self._sums[remainder])


def _exact_rows(queues: Sequence[_Queue], intended: NDArray[np.float64], total: int) -> list[int]:
    """Return the rows of each queue, ``total`` together, with trained tokens in proportion to the intended ones.

    All intended tokens are scaled by one factor until the rows add up; if several sources gain a row at the same scale,
    the first ones get it.
    """

    def counts(scale: float) -> list[int]:
        return [queue.rows(scale * tokens) for queue, tokens in zip(queues, intended.tolist(), strict=True)]

    low, high = 0.0, 1.0
    while sum(counts(high)) <= total:
        low, high = high, 2 * high
    while sum(counts(low)) < total and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if sum(counts(middle)) <= total else (low, middle)
    rows = counts(low)
    for index, more in enumerate(counts(high)):
        rows[index] += min(more - rows[index], total - sum(rows))
    return rows
