"""Win rates with the influence of length and Markdown taken out, as arenas do.

The win of an answer is modelled as ``sigmoid(a + b · x)``. Each ``x`` is a difference in style, ``(first - second) /
(first + second)`` of a count, in standard deviations; the controlled win rate is ``sigmoid(a)``. The four counts are
those of Li, Angelopoulos and Chiang (2024), "Does style matter? Disentangling style and substance in Chatbot Arena".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sft_cli.scoring.judge.length_control import MIN_PAIRS, controlled_rate
from sft_cli.scoring.judge.logistic import fit_logistic
from sft_cli.scoring.statistics import Estimate

_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_COUNTED = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "lists": re.compile(r"^\s*(?:[-*+]|\d+[.)])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}


@dataclass(frozen=True, slots=True)
class StyleControl:
    """A fitted model of wins and styles.

    Attributes:
        win_rate: Win rate at equal styles.
        slopes: Change of the log-odds of a win with each difference in style.
    """

    win_rate: Estimate
    slopes: Mapping[str, float]


def count_style(text: str) -> dict[str, int]:
    """Return the length of a text in characters, and the numbers of its headers, list items and bold passages.

    Code blocks have no style.
    """
    prose = _FENCED.sub("", text)
    return {"length": len(text), **{name: len(pattern.findall(prose)) for name, pattern in _COUNTED.items()}}


def fit_style_control(wins: Sequence[float], first: Sequence[str], second: Sequence[str]) -> StyleControl | None:
    """Return the fitted model; None for fewer than ten pairs per coefficient.

    Args:
        wins: 1, 0.5 or 0 for each pair, or a probability.
        first: The answer whose wins count.
        second: The other answer.
    """
    styles = [(count_style(a), count_style(b)) for a, b in zip(first, second, strict=True)]
    columns: dict[str, list[float]] = {}
    for name in ("length", *_COUNTED):
        column = [(a[name] - b[name]) / (a[name] + b[name]) if a[name] + b[name] else 0.0 for a, b in styles]
        if column and np.std(column) > 0:
            columns[name] = [value / float(np.std(column)) for value in column]
    if len(wins) < MIN_PAIRS * (1 + len(columns)) or not columns:
        return None
    inputs = np.column_stack([np.ones(len(wins)), *columns.values()])
    coefficients, covariance = fit_logistic(inputs, np.asarray(wins, float))
    slopes = dict(zip(columns, coefficients[1:].tolist(), strict=True))
    return StyleControl(controlled_rate(coefficients, covariance, len(wins)), slopes)
