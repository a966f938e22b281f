"""Means with intervals, paired differences of two runs, several comparisons at once, and the items still needed.

Items of one cluster (turns of a conversation, paraphrases of an item) are not independent, so clusters are the units of
all formulas. An item without a cluster is a cluster of its own. Sources:

- Standard error of a mean: the jackknife over clusters (CV3 of MacKinnon, Nielsen and Webb, 2023, "Cluster-robust
  inference"). For clusters of one item it is the usual s / sqrt(n). Quantiles are those of Student's t with one degree
  of freedom less than there are clusters.
- Interval of 0/1 scores: Wilson (1927), "Probable inference, the law of succession, and statistical inference". With
  clusters, the number of items in it is the effective one, p (1 - p) / variance (Korn and Graubard, 1998; Dean and
  Pagano, 2015), or the number of clusters if all scores are equal.
- Paired differences: Miller (2024), "Adding error bars to evals", section 4.
- p-value: the randomization test that swaps the two runs within a cluster (Fisher, 1935; Pitman, 1937), valid for any
  distribution of scores. For 0/1 scores without clusters it is McNemar's exact test. If more than 100 clusters differ
  by different amounts, Student's t is used, which then agrees.
- Several comparisons: Holm (1979), "A simple sequentially rejective multiple test procedure".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.scoring.distributions import normal_quantile, sign_test, student_quantile, student_tail

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
_ENUMERATED, _RANDOMIZED, _FLIPS = 12, 100, 9_999
"""Clusters up to which all swaps are tried, up to which random ones are, and the number of random swaps."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score over many items with its 95% interval.

    Attributes:
        value: The score; None without items.
        low: Lower end of the interval; None if the items do not determine one.
        high: Upper end of the interval.
        n: Number of items.
        clusters: Number of independent groups of items; ``n`` if every item is independent.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference between two runs on the same items.

    Attributes:
        value: Mean of (score of the second run - score of the first).
        low: Lower end of the 95% interval; None if there are too few clusters for one.
        high: Upper end of the interval.
        p_value: Probability of a difference at least as large between two equally good runs.
        error: Standard error of ``value``; None for a single cluster.
        n: Number of items.
        clusters: Number of independent groups of items.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float
    error: float | None
    n: int
    clusters: int


def estimate_mean(scores: Sequence[float], clusters: Sequence[str] = ()) -> Estimate:
    """Return the mean of scores with its 95% interval.

    Without scores there is neither value nor interval. One cluster gives an interval only to 0/1 scores. Scores that
    are all equal and neither 0 nor 1 give an interval of width 0. An interval of scores between 0 and 1 ends there.

    Args:
        scores: One score per item.
        clusters: The cluster of each item; an empty name is a cluster of its own. Empty: no item has one.
    """
    if not len(scores):
        return Estimate(None, None, None, 0, 0)
    values, codes = np.asarray(scores, float), cluster_codes(clusters, len(scores))
    count, mean = int(codes.max()) + 1, float(values.mean())
    error = _standard_error(values, codes)
    if set(scores) <= {0.0, 1.0}:
        low, high = _binary_interval(mean, len(scores), count, error)
        return Estimate(mean, low, high, len(scores), count)
    if error is None:
        return Estimate(mean, None, None, len(scores), count)
    width = student_quantile(CONFIDENCE, count - 1) * error
    low, high = mean - width, mean + width
    if _are_shares(values):
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(mean, low, high, len(scores), count)


def _are_shares(values: NDArray[np.float64]) -> bool:
    """Return whether all scores are between 0 and 1, so that no interval goes beyond."""
    return bool(values.min() >= 0 and values.max() <= 1)


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str] = ()
) -> Difference | None:
    """Return the mean of ``second - first`` over the same items; None without items.

    Args:
        first: Score of each item in the first run.
        second: Score of each item in the second run, in the same order.
        clusters: The cluster of each item, as for ``estimate_mean``.
    """
    if not len(first):
        return None
    differences = np.asarray(second, float) - np.asarray(first, float)
    codes = cluster_codes(clusters, len(differences))
    count, value = int(codes.max()) + 1, float(differences.mean())
    error = _standard_error(differences, codes)
    if error is None:
        return Difference(value, None, None, 1.0, None, len(differences), count)
    width = student_quantile(CONFIDENCE, count - 1) * error
    p_value = _swap_test(np.bincount(codes, differences).astype(float), value, error)
    low, high = value - width, value + width
    if _are_shares(np.asarray([*first, *second], float)):
        low, high = max(-1.0, low), min(1.0, high)
    return Difference(value, low, high, p_value, error, len(differences), count)


def bootstrap(
    statistic: Callable[[Sequence[int]], float], n: int, clusters: Sequence[str] = (), resamples: int = 1000
) -> Estimate:
    """Return a statistic that is not a mean, such as macro-F1, with the percentile interval of a cluster bootstrap.

    Whole clusters are drawn with replacement (Davison and Hinkley, 1997, section 3.8), from a fixed seed.

    Args:
        statistic: Function of the indices of items, which may repeat.
        n: Number of items.
        clusters: The cluster of each item, as for ``estimate_mean``.
        resamples: Number of draws.
    """
    if not n:
        return Estimate(None, None, None, 0, 0)
    codes = cluster_codes(clusters, n)
    count = int(codes.max()) + 1
    value = statistic(range(n))
    if count < 2:
        return Estimate(value, None, None, n, count)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    draws = np.random.default_rng(0).integers(0, count, (resamples, count))
    values = [statistic(np.concatenate([members[code] for code in draw]).tolist()) for draw in draws]
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), n, count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being several: at most 5% of tables have one false value below 0.05."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def items_needed(difference: Difference, comparisons: int = 1) -> int | None:
    """Return the number of items that would show a difference of this size with 80% power.

    The ratio of difference and standard error must reach ``z(1 - alpha / 2) + z(power)``, and the error falls with the
    root of the number of clusters; ``z² / 2`` clusters more correct for the estimated variance (Guenther, 1981).

    Args:
        difference: The observed difference, taken as the true one.
        comparisons: Number of comparisons in the same table, by which alpha is divided.

    Returns:
        The number of items, of the same mean number per cluster; None if there is no difference or no error.
    """
    if difference.error is None or difference.value == 0:
        return None
    significance = normal_quantile(1 - ALPHA / comparisons / 2)
    ratio = (significance + normal_quantile(POWER)) * difference.error / abs(difference.value)
    clusters = difference.clusters * ratio**2 + significance**2 / 2
    smallest = 1 + math.log2(comparisons / ALPHA)  # the p-value of n clusters is at least 2^(1 - n)
    return math.ceil(max(clusters, smallest) * difference.n / difference.clusters)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of the probability that one of ``k`` samples passes (Chen et al. 2021).

    It is ``1 - C(samples - passed, k) / C(samples, k)``.

    Args:
        samples: Samples of an item, at least ``k``.
        passed: Those of them that passed.
        k: Samples that a user would draw.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {passed} of {samples} samples")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval as text; empty if there is none."""
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def cluster_codes(clusters: Sequence[str], n: int) -> NDArray[np.int64]:
    """Return the number of each item's cluster, from 0; items with an empty name are clusters of their own."""
    if not len(clusters):
        return np.arange(n)
    assert len(clusters) == n, "there must be one cluster per score"
    numbers: dict[object, int] = {}
    named = [name or index for index, name in enumerate(clusters)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in named], np.int64)


def _standard_error(values: NDArray[np.float64], codes: NDArray[np.int64]) -> float | None:
    """Return the standard error of the mean by the jackknife over clusters; None for one cluster.

    Leaving out cluster c with n_c items moves the mean by e_c / (n - n_c), with e_c the sum of its residuals.
    """
    sizes = np.bincount(codes)
    if len(sizes) < 2:
        return None
    residuals = np.bincount(codes, values - values.mean())
    moves = residuals / (len(values) - sizes)
    return math.sqrt((len(sizes) - 1) / len(sizes) * float(moves @ moves))


def _binary_interval(mean: float, n: int, clusters: int, error: float | None) -> tuple[float, float]:
    """Return Wilson's interval of a share, with the effective number of items if there are clusters."""
    effective, z = float(n), normal_quantile((1 + CONFIDENCE) / 2)
    if clusters < n:
        effective = float(clusters) if not error else min(n, mean * (1 - mean) / error**2)
        z = student_quantile(CONFIDENCE, clusters - 1) if clusters > 1 else z
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    width = z / (1 + z**2 / effective) * math.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    return max(0.0, centre - width), min(1.0, centre + width)


def _swap_test(sums: NDArray[np.float64], value: float, error: float) -> float:
    """Return the p-value of the test that swaps the two runs within clusters.

    Args:
        sums: The sum of the differences of each cluster.
        value: The mean difference.
        error: Its standard error, used where there are so many clusters that Student's t is as good.
    """
    scale = float(np.abs(sums).max())
    sums = sums[np.abs(sums) > 1e-12 * scale]
    if not len(sums):
        return 1.0
    sizes = np.abs(sums)
    if np.allclose(sizes, sizes[0], rtol=1e-9, atol=0):
        return sign_test(int((sums > 0).sum()), int((sums < 0).sum()))
    if len(sums) > _RANDOMIZED:
        return student_tail(value / error if error else math.inf, len(sums) - 1)
    if len(sums) <= _ENUMERATED:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        totals = (2.0 * bits - 1) @ sizes
        return float((np.abs(totals) >= abs(sums.sum()) - 1e-9 * sizes.sum()).mean())
    flips = np.random.default_rng(0).integers(0, 2, (_FLIPS, len(sums)), np.int8)
    totals = 2 * (flips @ sizes) - sizes.sum()
    return float((1 + (np.abs(totals) >= abs(sums.sum()) - 1e-9 * sizes.sum()).sum()) / (1 + _FLIPS))
