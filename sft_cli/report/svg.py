"""Compute histograms for the page's template, which draws them as SVG. Lengths are in units of the drawing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 300, 96
"""Size of the plot area."""
BARS = 36
"""Number of bars of lengths."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: ``count`` examples between ``low`` and ``high``; position and size in the drawing."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram.

    Attributes:
        bars: The bars from left to right, without empty ones.
        ticks: Position and label of each tick.
        line: Position of the vertical line; None without one.
        peak: Number of examples of the tallest bar.
    """

    bars: list[Bar]
    ticks: list[tuple[float, str]]
    line: float | None
    peak: int


def length_histogram(lengths: NDArray[np.int32], low: int, high: int, max_length: int | None) -> Histogram:
    """Return a histogram of lengths in tokens on a logarithmic scale, with a line at the maximum length.

    Args:
        lengths: ``(examples,)`` lengths.
        low: Start of the scale.
        high: End of the scale.
        max_length: The length at which rows are truncated or dropped; None draws no line.
    """
    first, last = math.log2(max(1, low)), math.log2(max(low + 1, high + 1, (max_length or 0) * 1.06))
    if last - first < 1:
        first = max(0.0, last - 1)
    step = (last - first) / BARS  # with one edge right after the maximum length
    start = first - step + (math.log2((max_length or 0) + 1) - first) % step
    edges = np.unique(np.ceil(np.exp2(start + step * np.arange(BARS + 2)) - 1e-6).astype(np.int64))
    scale = WIDTH / (last - first)

    def place(value: float) -> float:
        return round(min(WIDTH, max(0.0, (math.log2(max(value, 1)) - first) * scale)), 1)

    counts, _ = np.histogram(lengths, np.append(edges[:-1], max(edges[-1], high + 1)))
    step_of_ticks = 1 if last - first <= 6 else 2
    powers = [power for power in range(math.ceil(first), math.floor(last) + 1) if power % step_of_ticks == 0]
    ticks = [(place(2**power), _short_power_of_two(2**power)) for power in powers]
    positions = [place(edge) for edge in edges]
    return _histogram(counts, edges, positions, ticks, place(max_length) if max_length else None)


def share_histogram(shares: NDArray[np.float64]) -> Histogram:
    """Return a histogram of shares from 0 to 1 in twenty bars."""
    edges = np.linspace(0, 1, 21)
    counts, _ = np.histogram(shares, edges)
    positions = [round(edge * WIDTH, 1) for edge in edges]
    ticks = [(quarter * WIDTH / 4, f"{quarter * 25}%") for quarter in range(5)]
    return _histogram(counts, edges, positions, ticks, None)


def _histogram(
    counts: NDArray[np.int64],
    edges: NDArray[np.int64] | NDArray[np.float64],
    positions: list[float],
    ticks: list[tuple[float, str]],
    line: float | None,
) -> Histogram:
    """Return the histogram of counts; a bar that is not empty is at least one unit high.

    Args:
        counts: ``(bars,)`` examples of each bar.
        edges: ``(bars + 1,)`` values of the edges.
        positions: ``(bars + 1,)`` positions of the edges.
        ticks: Position and label of each tick.
        line: Position of the vertical line, or None.
    """
    peak = int(counts.max(initial=0))
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            height = round(max(1.0, HEIGHT * count / peak), 1)
            width = round(max(1.0, positions[i + 1] - positions[i] - 1), 1)
            bars.append(
                Bar(positions[i], round(HEIGHT - height, 1), width, height, float(edges[i]), float(edges[i + 1]), count)
            )
    return Histogram(bars, ticks, line, peak)


def _short_power_of_two(number: int) -> str:
    """Return a power of two in short form: 512, 2k, 128k, 1M."""
    if number >= 1 << 20:
        return f"{number >> 20}M"
    return f"{number >> 10}k" if number >= 1 << 10 else str(number)
