"""Compute the curves of a run over its steps, which the page's template draws as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from sft_cli.report.axes import HEIGHT, WIDTH, axis_scale, tick_label

POINTS = 300
"""Most points of a curve; each is the mean of the steps it stands for."""
MAX_MARKS = 60
"""Most marked evaluations in a chart; of more, every second, third and so on is marked."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        title: What is drawn, with its unit.
        points: The points of the polyline.
        marks: Position and label of each evaluation.
        limit: Position of a horizontal line; None without one.
        caption: Text below the title.
        steps: Position and label of each tick of the horizontal axis.
        ticks: Position and label of each tick of the vertical axis.
    """

    title: str
    points: str
    marks: list[tuple[float, float, str]]
    limit: float | None
    caption: str
    steps: list[tuple[float, str]]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Series:
    """What a chart shows.

    Attributes:
        title: What is drawn, with its unit.
        values: Step and value of each point.
        marks: Step and value of each evaluation.
        limit: The value of a horizontal line; None without one.
        caption: Text below the title.
        linear: Whether the scale is linear even for a wide range.
    """

    title: str
    values: Sequence[tuple[int, float]]
    marks: Sequence[tuple[int, float]] = ()
    limit: float | None = None
    caption: str = ""
    linear: bool = False


def draw(series: Series) -> Chart | None:
    """Return the chart of a series; None if it has fewer than two values."""
    if len(series.values) < 2:
        return None
    values, marks = _averaged(series.values), series.marks[:: -(-len(series.marks) // MAX_MARKS) or 1]
    heights = [value for _, value in (*values, *marks)] + ([series.limit] if series.limit is not None else [])
    horizontal = axis_scale(series.values[0][0], series.values[-1][0], WIDTH, linear=True)
    vertical = axis_scale(min(heights), max(heights), HEIGHT, upwards=True, linear=series.linear)
    return Chart(
        series.title,
        " ".join(f"{horizontal.position(step)},{vertical.position(value)}" for step, value in values),
        [
            (horizontal.position(step), vertical.position(value), f"step {step:,}: {tick_label(value)}")
            for step, value in marks
        ],
        None if series.limit is None else vertical.position(series.limit),
        series.caption,
        horizontal.ticks,
        vertical.ticks,
    )


def pairs(lines: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> list[tuple[int, float]]:
    """Return step and value of the lines that have a finite value of this name, divided by ``scale``."""
    return [(line["step"], line[name] / scale) for line in lines if line.get(name) is not None]


def _averaged(values: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most ``POINTS`` points: the mean of neighbouring values at the last of their steps."""
    every = -(-len(values) // POINTS)
    groups = [values[start : start + every] for start in range(0, len(values), every)]
    return [(group[-1][0], mean(value for _, value in group)) for group in groups]
