"""Drawings of a sweep as numbers ready to draw: the page's template makes SVG of them. Places are in its units."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sft_cli.sweep.metric import MetricValue
from sft_cli.sweep.plan import Trial

WIDTH, HEIGHT = 300, 130
"""Size of the field that is drawn in."""
MARGIN = 16
"""Room on both sides of the values of a key."""
LOGARITHMIC = 30
"""A scale whose last value is this many times the first is logarithmic."""
POINTS = 200
"""Points of a curve at most."""


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Where values stand between 0 and ``size``.

    Attributes:
        place: A value -> its place.
        ticks: Place and label of each mark.
    """

    place: Callable[[float], float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Dot:
    """One member at one value of a key."""

    x: float
    y: float
    member: Trial
    value: float
    best: bool


@dataclass(frozen=True, slots=True)
class KeyEffect:
    """The finished members over the values of one key.

    Attributes:
        key: Which.
        dots: The members, the best one last, so that it is drawn above the others.
        middles: Place of the median of each value's members, left to right.
        columns: Place and text of each value.
        ticks: Place and label of each mark at the side.
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
    member: Trial
    best: bool


@dataclass(frozen=True, slots=True)
class MetricCurves:
    """The course of all members on common scales."""

    lines: list[CurveLine]
    steps: list[tuple[float, str]]
    ticks: list[tuple[float, str]]


def axis_scale(low: float, high: float, size: float, *, upwards: bool = False, linear: bool = False) -> AxisScale:
    """A scale over some values, logarithmic where they differ much.

    Args:
        low: The smallest.
        high: The largest.
        size: The place of the last one.
        upwards: The largest at 0, as on a page.
        linear: Not logarithmic, however much they differ.
    """
    logarithmic = not linear and low > 0 and high / low >= LOGARITHMIC
    shape: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = shape(low), shape(high)
    if last == first:
        first, last = first - 0.5, last + 0.5

    def place(value: float) -> float:
        share = (shape(value) - first) / (last - first)
        return round(size * (1 - share if upwards else share), 1)

    marks = _log_ticks(low, high) if logarithmic else _linear_ticks(first, last)
    return AxisScale(place, [(place(mark), tick_label(mark)) for mark in marks])


def key_effect(
    key: str, values: Mapping[Trial, str], found: Mapping[Trial, float], best: Trial | None
) -> KeyEffect | None:
    """What a key does to the metric; None where fewer than two of its values have a finished member."""
    shown = [member for member in values if member in found]
    columns = _value_positions(list(dict.fromkeys(values[member] for member in shown)))
    if len(columns) < 2:
        return None
    side = axis_scale(min(found.values()), max(found.values()), HEIGHT, upwards=True)
    dots = [Dot(columns[values[m]], side.place(found[m]), m, found[m], m == best) for m in shown]
    middles = []
    for value, x in columns.items():
        reached = median(found[member] for member in shown if values[member] == value)
        middles.append((x, side.place(reached)))
    return KeyEffect(
        key, sorted(dots, key=lambda dot: dot.best), middles, [(x, v) for v, x in columns.items()], side.ticks
    )


def metric_curves(courses: Mapping[Trial, Sequence[MetricValue]], best: Trial | None) -> MetricCurves | None:
    """How the metric went; None where no member has two values."""
    drawn = {member: _downsample(course) for member, course in courses.items() if len(course) > 1}
    if not drawn:
        return None
    readings = [reading for course in drawn.values() for reading in course]
    below = axis_scale(min(one.step for one in readings), max(one.step for one in readings), WIDTH, linear=True)
    side = axis_scale(min(one.value for one in readings), max(one.value for one in readings), HEIGHT, upwards=True)
    lines = [
        CurveLine(
            " ".join(f"{below.place(one.step)},{side.place(one.value)}" for one in course), member, member == best
        )
        for member, course in drawn.items()
    ]
    return MetricCurves(sorted(lines, key=lambda line: line.best), below.ticks, side.ticks)


def tick_label(value: float) -> str:
    """A number as a mark has it: 0.25, 1e-4, 12k."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1e3:.4g}k"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _value_positions(values: Sequence[str]) -> dict[str, float]:
    """Where the values of a key stand: by size, equally far apart, numbers before words."""

    def order(value: str) -> tuple[bool, float]:
        """Return the sort key of a value."""
        try:
            return False, float(value)
        except ValueError:
            return True, 0.0

    between = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    return {value: round(MARGIN + place * between, 1) for place, value in enumerate(sorted(values, key=order))}


def _downsample(course: Sequence[MetricValue]) -> list[MetricValue]:
    """At most ``POINTS`` of a course's values, the last one always."""
    every = -(-len(course) // POINTS)
    return [*course[:-1:every], course[-1]]


def _linear_ticks(low: float, high: float) -> list[float]:
    """Three to six multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; every second or third one where there are many."""
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    return [10.0**power for power in powers[:: max(1, len(powers) // 5)]]
