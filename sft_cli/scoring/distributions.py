"""Student's t distribution and the sign test, which NumPy lacks."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_NORMAL_FROM = 20_000
"""Degrees of freedom from which Student's t and the normal distribution agree to five digits."""


def normal_quantile(probability: float) -> float:
    """Return the value that a standard normal variable is below with this probability."""
    return NormalDist().inv_cdf(probability)


def student_tail(t: float, freedom: int) -> float:
    """Return the probability that the absolute value of Student's t is at least ``t`` (two-sided p-value)."""
    if math.isinf(t):
        return 0.0
    if freedom >= _NORMAL_FROM:
        return 2 * NormalDist().cdf(-abs(t))
    return max(0.0, 1 - _central(math.atan(abs(t) / math.sqrt(freedom)), freedom))


@cache
def student_quantile(confidence: float, freedom: int) -> float:
    """Return the ``t`` for which the absolute value of Student's t is below it with probability ``confidence``."""
    if freedom >= _NORMAL_FROM:
        return normal_quantile((1 + confidence) / 2)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _central(angle: float, freedom: int) -> float:
    """Return the probability that the absolute value of t is below ``sqrt(freedom) * tan(angle)``.

    With t = sqrt(v) tan(x), the density becomes proportional to cos(x)^(v-1), which Gauss-Legendre integrates.
    """
    log_constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    points = angle * (_NODES + 1) / 2
    return math.exp(log_constant) * angle * float(_WEIGHTS @ np.cos(points) ** (freedom - 1))


def sign_test(positive: int, negative: int) -> float:
    """Return the exact two-sided p-value of a number of positive and negative signs, if both are equally likely.

    On pairs of right and wrong answers this is McNemar's exact test.
    """
    total, most = positive + negative, max(positive, negative)
    log_all = math.lgamma(total + 1) - total * math.log(2)
    tail = sum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(total - k + 1)) for k in range(most, total + 1)
    )  # fmt: skip
    return min(1.0, 2 * tail)
