"""Histograms as numbers ready to draw: the page's template makes SVG of them. Lengths are in units of the drawing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 300, 96
"""Size of the field the bars stand in."""
BARS = 36
"""Bars of lengths."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: ``count`` examples between ``low`` and ``high``; place and size in the drawing."""

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
        bars: Left to right, empty ones left out.
        ticks: Place and label of each mark below.
        line: Place of the vertical line; None without one.
        peak: Examples of the tallest bar.
    """

    bars: list[Bar]
    ticks: list[tuple[float, str]]
    line: float | None
    peak: int


def length_histogram(lengths: NDArray[np.int32], low: int, high: int, max_length: int | None) -> Histogram:
    """Lengths in tokens on a logarithmic scale from ``low`` to ``high``, with the line rows are truncated at."""
    first, last = math.log2(max(1, low)), math.log2(max(low + 1, high + 1, (max_length or 0) * 1.06))
    if last - first < 1:
        first = max(0.0, last - 1)
    step = (last - first) / BARS  # and one edge right behind the longest that is allowed
    start = first - step + (math.log2((max_length or 0) + 1) - first) % step
    edges = np.unique(np.ceil(np.exp2(start + step * np.arange(BARS + 2)) - 1e-6).astype(np.int64))
    scale = WIDTH / (last - first)

    def place(value: float) -> float:
        return round(min(WIDTH, max(0.0, (math.log2(max(value, 1)) - first) * scale)), 1)

    counts, _ = np.histogram(lengths, np.append(edges[:-1], max(edges[-1], high + 1)))
    every = 1 if last - first <= 6 else 2
    powers = [power for power in range(math.ceil(first), math.floor(last) + 1) if power % every == 0]
    ticks = [(place(2**power), _short_power_of_two(2**power)) for power in powers]
    places = [place(edge) for edge in edges]
    return _histogram(counts, edges, places, ticks, place(max_length) if max_length else None)


def share_histogram(shares: NDArray[np.float64]) -> Histogram:
    """Shares from 0 to 1 in twenty bars."""
    edges = np.linspace(0, 1, 21)
    counts, _ = np.histogram(shares, edges)
    places = [round(edge * WIDTH, 1) for edge in edges]
    ticks = [(quarter * WIDTH / 4, f"{quarter * 25}%") for quarter in range(5)]
    return _histogram(counts, edges, places, ticks, None)


def _histogram(
    counts: NDArray[np.int64],
    edges: NDArray[np.int64] | NDArray[np.float64],
    places: list[float],
    ticks: list[tuple[float, str]],
    line: float | None,
) -> Histogram:
    """Bars of counts; a bar that is not empty is at least one unit high."""
    peak = int(counts.max(initial=0))
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            height = round(max(1.0, HEIGHT * count / peak), 1)
            width = round(max(1.0, places[i + 1] - places[i] - 1), 1)
            bars.append(
                Bar(places[i], round(HEIGHT - height, 1), width, height, float(edges[i]), float(edges[i + 1]), count)
            )
    return Histogram(bars, ticks, line, peak)


def _short_power_of_two(number: int) -> str:
    """A power of two as people write it: 512, 2k, 128k, 1M."""
    if number >= 1 << 20:
        return f"{number >> 20}M"
    return f"{number >> 10}k" if number >= 1 << 10 else str(number)
