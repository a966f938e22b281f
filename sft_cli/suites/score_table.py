"""The table of all suites."""

from collections.abc import Mapping
from typing import Any

from sft_cli.scoring.statistics import interval_text

Scores = Mapping[str, Any]


def metric_table(
    tuned: Mapping[str, Scores], base: Mapping[str, Scores]
) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Return the columns and rows of the table: a row for each metric of each suite, with 95% intervals.

    Args:
        tuned: Content of scores.json of the trained model, by suite.
        base: The same of the base model; empty if it was not evaluated.
    """
    columns = ["suite", "metric", "n", *(["base", "base 95%"] if base else []), "tuned" if base else "value", "95%"]
    rows: list[list[str | int | float | None]] = []
    for suite, scores in tuned.items():
        for name, figure in scores["metrics"].items():
            other = base[suite]["metrics"].get(name) if suite in base else None
            pair = [other and other["value"], _interval(other)] if base else []
            rows.append([suite, name, figure["n"], *pair, figure["value"], _interval(figure)])
        if not scores["metrics"]:
            rows.append([suite, "answers", scores["counts"]["answers"], *([None, ""] if base else []), None, ""])
    return columns, rows


def _interval(figure: Scores | None) -> str:
    """Return an interval as text; empty for a figure without one."""
    return "" if figure is None else interval_text(figure["low"], figure["high"])
