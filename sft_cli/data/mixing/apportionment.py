"""From the rows a mix asks for to whole rows: totals that add up, and where each stage stops in a source's order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quotas:
    """What a mix asks for, before rows are whole.

    Attributes:
        rows: ``(stages, sources)`` float64 rows of an epoch, repeats counted.
        passes: ``(sources,)`` float64 passes over a source, if they are what the config states, else nan.
        fixed: ``(sources,)`` whether ``epochs`` states the passes.
        exact: Rows that the sources without ``epochs`` must give together, or None.
    """

    rows: NDArray[np.float64]
    passes: NDArray[np.float64]
    fixed: NDArray[np.bool_]
    exact: int | None


def apportion(quotas: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers of sum ``total``, each within one of its quota: the method of largest remainders (Hamilton 1792).

    Args:
        quotas: ``(parts,)`` of sum ``total``; of equal remainders the first is rounded up.
        total: The sum.
    """
    whole = np.floor(quotas + 1e-9).astype(np.int64)
    left = total - int(whole.sum())
    assert 0 <= left <= len(quotas), f"quotas of sum {quotas.sum()} for a total of {total}"
    whole[np.argsort(-np.round(quotas - whole, 9), kind="stable")[:left]] += 1
    return whole


def at_least_one(rows: NDArray[np.float64], num_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(sources,)`` whole rows: rounded, but one of a source that has any."""
    return np.maximum(np.rint(rows).astype(np.int64), np.minimum(num_rows, 1))


def stage_ends_by_rows(quotas: Quotas, num_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(stages, sources)`` rows of each source that are taken up to the end of each stage.

    Args:
        quotas: What the mix asks for.
        num_rows: ``(sources,)`` rows there are.
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
    """As ``stage_ends_by_rows``, but end each source without ``epochs`` nearest to its intended trained tokens.

    The intended trained tokens of a source are its rows times its mean number of trained tokens.

    Args:
        quotas: What the mix asks for.
        num_rows: ``(sources,)`` rows there are.
        trained: Per source ``(rows,)`` trained tokens in the order in which rows are taken.
    """
    ends = stage_ends_by_rows(quotas, num_rows)
    free = np.flatnonzero(~quotas.fixed).tolist()
    queues = [_Queue(trained[source]) for source in free]
    totals = np.cumsum(quotas.rows, axis=0)[:, free]
    meant = totals[-1] * [queue.total / queue.num_rows for queue in queues]
    if quotas.exact is None:
        last = [max(1, queue.rows(tokens)) for queue, tokens in zip(queues, meant, strict=True)]
    else:
        last = _exact_rows(queues, meant, quotas.exact)
    parts = _fractions_of_last(totals)
    for place, (source, queue) in enumerate(zip(free, queues, strict=True)):
        within = parts[:, place] * queue.tokens(last[place])
        ends[:, source] = [min(queue.rows(tokens), last[place]) for tokens in within]
        ends[-1, source] = last[place]
    return ends


def _fractions_of_last(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running totals ``(stages, sources)`` as parts of the last one."""
    return totals / np.where(totals[-1] > 0, totals[-1], 1)


class _Queue:
    """The trained tokens of a source's rows in the order in which they are taken, again and again."""

    def __init__(self, trained: NDArray[np.int64]) -> None:
        self._sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(trained)])
        self._middles = (self._sums[:-1] + self._sums[1:]) / 2
        self.num_rows, self.total = len(trained), int(self._sums[-1])

    def rows(self, tokens: float) -> int:
        """The number of rows whose trained tokens are nearest to ``tokens``; of two equally near, the smaller."""
        whole = round(tokens)
        tokens = whole if abs(tokens - whole) <= 1e-9 * max(1, whole) else tokens  # undo the noise of divisions
        passes, rest = divmod(tokens, self.total)
        return int(passes) * self.num_rows + int(np.searchsorted(self._middles, rest, side="left"))

    def tokens(self, rows: int) -> int:
        """Trained tokens of the first ``rows`` rows."""
        passes, rest = divmod(rows, self.num_rows)
        return passes * self.total + int(self._sums[rest])


def _exact_rows(queues: Sequence[_Queue], meant: NDArray[np.float64], total: int) -> list[int]:
    """Rows of each queue, ``total`` together, whose trained tokens are to one another as those meant.

    All tokens meant are scaled alike until the rows add up; where several sources gain a row at the same scale, the
    first ones do.
    """

    def counts(scale: float) -> list[int]:
        return [queue.rows(scale * tokens) for queue, tokens in zip(queues, meant.tolist(), strict=True)]

    low, high = 0.0, 1.0
    while sum(counts(high)) <= total:
        low, high = high, 2 * high
    while sum(counts(low)) < total and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if sum(counts(middle)) <= total else (low, middle)
    rows = counts(low)
    for place, more in enumerate(counts(high)):
        rows[place] += min(more - rows[place], total - sum(rows))
    return rows
