"""Logistic regression of wins with a sandwich covariance."""

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-3
"""Weight of the penalty on the coefficients, which keeps them finite if one side wins all."""
Array = NDArray[np.float64]


def fit_logistic(inputs: Array, wins: Array) -> tuple[Array, Array]:
    """Return the coefficients of ``P(win) = sigmoid(inputs @ coefficients)`` and their covariance.

    The covariance is the sandwich estimate (White, 1982), valid for ties and for probabilities as wins.

    Args:
        inputs: A row per pair, ``(pairs, coefficients)``.
        wins: 1, 0.5 or 0 for each pair, or a probability.
    """
    coefficients, penalty = np.zeros(inputs.shape[1]), RIDGE * np.eye(inputs.shape[1])
    chances = np.full(len(wins), 0.5)
    curvature = inputs.T @ inputs / 4 + penalty
    for _ in range(100):  # Newton's method; long steps are cut
        step = np.linalg.solve(curvature, inputs.T @ (wins - chances) - penalty @ coefficients)
        coefficients = coefficients + step * min(1.0, 2 / float(np.abs(step).max() + 1e-12))
        chances = sigmoid(inputs @ coefficients)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + penalty
        if np.abs(step).max() < 1e-9:
            break
    inverse = np.linalg.inv(curvature)
    scores = inputs * (wins - chances)[:, None]
    return coefficients, inverse @ (scores.T @ scores) @ inverse


def sigmoid(values: Array) -> Array:
    """Return ``1 / (1 + exp(-values))``."""
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
