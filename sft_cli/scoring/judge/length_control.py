"""Win rates with the influence of length taken out: minimal-LC.

The win of an answer is modelled as ``sigmoid(a + b * tanh(d))``, where ``d`` is its length less that of the baseline's
answer, in standard deviations. The controlled win rate is ``sigmoid(a)``, that at equal lengths. The formula is the
part of Dubois et al. (2024), "Length-controlled AlpacaEval", that needs no data of other models. Their figure,
AlpacaEval 2 LC, also has a difficulty for each of its 805 instructions; minimal-LC is another number and mostly a
higher one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft_cli.scoring.distributions import normal_quantile
from sft_cli.scoring.judge.logistic import Array, fit_logistic, sigmoid
from sft_cli.scoring.statistics import CONFIDENCE, Estimate

MIN_PAIRS = 10
"""Fewest pairs for each coefficient of a model."""


@dataclass(frozen=True, slots=True)
class LengthControl:
    """A fitted model of wins and lengths.

    Attributes:
        win_rate: Win rate at equal lengths.
        slope: Change of the log-odds of a win with ``tanh(d)``; above 0, longer answers win more often.
    """

    win_rate: Estimate
    slope: float


def fit_length_control(wins: Sequence[float], lengths: Sequence[float]) -> LengthControl | None:
    """Return the fitted model; None for fewer than ten pairs, or if all differences in length are equal.

    Args:
        wins: 1, 0.5 or 0 for each pair, or a probability.
        lengths: Length of the answer less that of the baseline's answer.
    """
    spread = float(np.std(lengths)) if len(lengths) else 0.0
    if len(wins) < MIN_PAIRS or not spread:
        return None
    inputs = np.column_stack([np.ones(len(wins)), np.tanh(np.asarray(lengths, float) / spread)])
    coefficients, covariance = fit_logistic(inputs, np.asarray(wins, float))
    return LengthControl(controlled_rate(coefficients, covariance, len(wins)), float(coefficients[1]))


def controlled_rate(coefficients: Array, covariance: Array, pairs: int) -> Estimate:
    """Return the win rate at equal lengths, and equal styles, with its interval: that of the first coefficient."""
    width = normal_quantile((1 + CONFIDENCE) / 2) * float(np.sqrt(covariance[0, 0]))
    low, middle, high = sigmoid(coefficients[0] + width * np.array([-1.0, 0.0, 1.0])).tolist()
    return Estimate(middle, low, high, pairs, pairs)
