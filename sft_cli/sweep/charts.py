"""Compute the coordinates of a sweep's charts, which the page's template draws as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sft_cli.report.axes import HEIGHT, WIDTH, axis_scale
from sft_cli.sweep.metric import MetricValue
from sft_cli.sweep.plan import Member

MARGIN = 16
"""Space on both sides of the values of a key."""
POINTS = 200
"""Most points of a curve."""


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
