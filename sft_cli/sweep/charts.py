"""Compute the coordinates of a sweep's charts, which the page's template draws as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sft_cli.sweep.metric import MetricValue
from sft_cli.sweep.plan import Member

WIDTH, HEIGHT = 300, 130
"""Size of the drawing area."""
MARGIN = 16
"""Space on both sides of the values of a key."""
LOGARITHMIC = 30
"""A scale whose last value is at least this many times the first is logarithmic."""
POINTS = 200
"""Most points of a curve."""


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Mapping from values to positions between 0 and ``size``.

    Attributes:
        position: Function from a value to its position.
        ticks: Position and label of each tick.
    """

    position: Callable[[float], float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Dot:
    """One member at one value of a key."""

    x: float
    y: float
    member: Member
    value: float
    best: bool


@dataclass(frozen=True, slots=True)
class KeyEffect:
    """The finished members over the values of one key.

    Attributes:
        key: The swept key.
        dots: The members, the best one last, so that it is drawn on top.
        middles: Position of the median of each value's members, left to right.
        columns: Position and text of each value.
        ticks: Position and label of each tick of the vertical axis.
    """

    key: str
    dots: list[Dot]
    middles: list[tuple[float, float]]
    columns: list[tuple[float, str]]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class CurveLine:
    """A member's values over its steps, as the points of a polyline."""

    points: str
    member: Member
    best: bool


@dataclass(frozen=True, slots=True)
class MetricCurves:
    """Curves of all members on common scales."""

    lines: list[CurveLine]
    steps: list[tuple[float, str]]
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


def key_effect(
    key: str, values: Mapping[Member, str], measured: Mapping[Member, float], best: Member | None
) -> KeyEffect | None:
    """Return the metric by the values of a key; None if fewer than two values have a finished member."""
    shown = [member for member in values if member in measured]
    columns = _value_positions(list(dict.fromkeys(values[member] for member in shown)))
    if len(columns) < 2:
        return None
    vertical = axis_scale(min(measured.values()), max(measured.values()), HEIGHT, upwards=True)
    dots = [Dot(columns[values[m]], vertical.position(measured[m]), m, measured[m], m == best) for m in shown]
    middles = []
    for value, x in columns.items():
        middle = median(measured[member] for member in shown if values[member] == value)
        middles.append((x, vertical.position(middle)))
    return KeyEffect(
        key, sorted(dots, key=lambda dot: dot.best), middles, [(x, v) for v, x in columns.items()], vertical.ticks
    )


def metric_curves(courses: Mapping[Member, Sequence[MetricValue]], best: Member | None) -> MetricCurves | None:
    """Return the curves of a metric over the steps; None if no member has two values."""
    drawn = {member: _downsample(course) for member, course in courses.items() if len(course) > 1}
    if not drawn:
        return None
    steps = [reading.step for course in drawn.values() for reading in course]
    values = [reading.value for course in drawn.values() for reading in course]
    horizontal = axis_scale(min(steps), max(steps), WIDTH, linear=True)
    vertical = axis_scale(min(values), max(values), HEIGHT, upwards=True)
    lines = [
        CurveLine(
            " ".join(f"{horizontal.position(point.step)},{vertical.position(point.value)}" for point in course),
            member,
            member == best,
        )
        for member, course in drawn.items()
    ]
    return MetricCurves(sorted(lines, key=lambda line: line.best), horizontal.ticks, vertical.ticks)


def tick_label(value: float) -> str:
    """Return a number as an axis label: 0.25, 1e-4, 12k."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1e3:.4g}k"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _value_positions(values: Sequence[str]) -> dict[str, float]:
    """Return equally spaced positions of the values of a key, sorted by size, numbers before words."""

    def order(value: str) -> tuple[bool, float]:
        """Return the sort key of a value."""
        try:
            return False, float(value)
        except ValueError:
            return True, 0.0

    between = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    return {value: round(MARGIN + place * between, 1) for place, value in enumerate(sorted(values, key=order))}


def _downsample(course: Sequence[MetricValue]) -> list[MetricValue]:
    """Return at most ``POINTS`` values of a curve, always with the last one."""
    every = -(-len(course) // POINTS)
    return [*course[:-1:every], course[-1]]


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
