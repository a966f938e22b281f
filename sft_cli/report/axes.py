"""Scales, ticks and labels of the axes of charts, which templates draw as SVG."""

import math
from collections.abc import Callable
from dataclasses import dataclass

WIDTH, HEIGHT = 300, 130
"""Size of the drawing area."""
LOGARITHMIC = 30
"""A scale whose last value is at least this many times the first is logarithmic."""


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Mapping from values to positions between 0 and ``size``.

    Attributes:
        position: Function from a value to its position.
        ticks: Position and label of each tick.
    """

    position: Callable[[float], float]
    ticks: list[tuple[float, str]]


def axis_scale(low: float, high: float, size: float, *, upwards: bool = False, linear: bool = False) -> AxisScale:
    """Return a scale for a range of values, logarithmic if the range is wide.

    Args:
        low: The smallest value.
        high: The largest value.
        size: Position of the last value.
        upwards: Put the largest value at 0, as on a page.
        linear: Use a linear scale even for a wide range.
    """
    logarithmic = not linear and low > 0 and high / low >= LOGARITHMIC
    shape: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = shape(low), shape(high)
    if last == first:
        first, last = first - 0.5, last + 0.5

    def position(value: float) -> float:
        share = (shape(value) - first) / (last - first)
        return round(size * (1 - share if upwards else share), 1)

    marks = _log_ticks(low, high) if logarithmic else _linear_ticks(first, last)
    return AxisScale(position, [(position(mark), tick_label(mark)) for mark in marks])


def tick_label(value: float) -> str:
    """Return a number as an axis label: 0.25, 1e-4, 12k."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1e3:.4g}k"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _linear_ticks(low: float, high: float) -> list[float]:
    """Return three to six multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, only every second or third if there are many."""
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    return [10.0**power for power in powers[:: max(1, len(powers) // 5)]]
