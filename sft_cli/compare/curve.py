"""The curve of a score over the number of training rows, fitted to a few runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft_cli.scoring.distributions import student_quantile
from sft_cli.scoring.statistics import CONFIDENCE, Estimate, estimate_mean

POWER_LAW, LOG_LINEAR = "power law", "log-linear"


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted curve.

    Attributes:
        form: ``power law``, ``value = scale * rows^-slope`` (Hestness et al., 2017, arXiv:1712.00409), or
            ``log-linear``, ``value = scale + slope * ln(rows)``.
        scale: Its first parameter.
        slope: Its second one, with the 95% interval; none if the runs do not determine one.
    """

    form: str
    scale: float
    slope: Estimate

    def value(self, rows: float) -> float:
        """Return the value at a number of rows."""
        slope = self.slope.value or 0.0
        return self.scale * rows**-slope if self.form == POWER_LAW else self.scale + slope * math.log(rows)

    def doubling(self, rows: float) -> Estimate:
        """Return how the value changes from ``rows`` to twice as many, with the interval of the slope."""
        value, slope = self.value(rows), self.slope

        def change(at: float | None) -> float | None:
            if at is None:
                return None
            return value * (2**-at - 1) if self.form == POWER_LAW else at * math.log(2)

        ends = [end for end in (change(slope.low), change(slope.high)) if end is not None]
        low, high = (min(ends), max(ends)) if len(ends) == 2 else (None, None)
        return Estimate(change(slope.value), low, high, slope.n, slope.clusters)


def fit_power_law(rows: Sequence[int], values: Sequence[float]) -> Curve:
    """Return the power law through positive values, by least squares of their logarithms.

    The interval of the exponent is that of a linear regression (Student's t with two degrees of freedom less than there
    are runs): it covers the noise between runs, and needs at least three of them.

    Args:
        rows: Training rows of each run; at least two different numbers.
        values: The value of each run, above 0.
    """
    x, y = np.log(np.asarray(rows, float)), np.log(np.asarray(values, float))
    slope = float(slope_weights(rows) @ y)
    intercept = float(y.mean() - slope * x.mean())
    free = len(x) - 2
    low = high = None
    if free > 0:
        residuals = y - intercept - slope * x
        error = math.sqrt(float(residuals @ residuals) / free / float(((x - x.mean()) ** 2).sum()))
        width = student_quantile(CONFIDENCE, free) * error
        low, high = -slope - width, -slope + width
    return Curve(POWER_LAW, math.exp(intercept), Estimate(-slope, low, high, len(x), len(x)))


def fit_log_linear(rows: Sequence[int], scores: Sequence[Sequence[float]], clusters: Sequence[str] = ()) -> Curve:
    """Return the line over the logarithm of the rows through the mean scores of runs on the same items.

    The slope of the means is the mean of the slopes of the items, so its interval is that of a mean over items, paired
    and clustered. It covers the choice of the items, not the noise between runs.

    Args:
        rows: Training rows of each run; at least two different numbers.
        scores: Scores of the items of each run, in the same order.
        clusters: The cluster of each item, as for ``estimate_mean``.
    """
    values, x = np.asarray(scores, float), np.log(np.asarray(rows, float))
    slope = estimate_mean((slope_weights(rows) @ values).tolist(), clusters)
    return Curve(LOG_LINEAR, float(values.mean() - (slope.value or 0.0) * x.mean()), slope)


def slope_weights(rows: Sequence[int]) -> np.ndarray:
    """Return ``(runs,)`` the weights by which the values of runs sum to the slope of their regression on ln(rows)."""
    x = np.log(np.asarray(rows, float))
    centered = x - x.mean()
    return centered / float(centered @ centered)
