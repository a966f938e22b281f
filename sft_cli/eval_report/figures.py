"""The scores of the page, from the stored results of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sft_cli.compare.results import SuiteRecord
from sft_cli.scoring.statistics import estimate_mean

Figure = Mapping[str, Any]
"""``{value, low, high, n}``."""


@dataclass(frozen=True, slots=True)
class MetricFigures:
    """A metric of one suite.

    Attributes:
        name: Its name.
        n: Number of items.
        models: Model -> its figure.
        scale: The value at the right end of the bars; None draws none.
    """

    name: str
    n: int
    models: Mapping[str, Figure]
    scale: float | None


@dataclass(frozen=True, slots=True)
class SuiteFigures:
    """A suite.

    Attributes:
        name: Its name on the page.
        place: Name of its directory or file.
        source: Where its items come from.
        metrics: Its metrics.
        overlap: Its overlap with the training rows, as in scores.json; None if it was not measured.
    """

    name: str
    place: str
    source: str
    metrics: tuple[MetricFigures, ...]
    overlap: Mapping[str, Any] | None = None


def suite_figures(
    name: str, tuned: SuiteRecord, base: SuiteRecord | None, overlap: Mapping[str, Any] | None
) -> SuiteFigures:
    """Return the scores of a suite.

    Args:
        name: Its name on the page.
        tuned: Its results of the trained model.
        base: Its results of the base model.
        overlap: Its overlap with the training rows.
    """
    records = {"base": base, "tuned": tuned} if base is not None else {"tuned": tuned}
    metrics = []
    for metric, figure in tuned.totals.items():
        models = {model: record.totals[metric] for model, record in records.items() if metric in record.totals}
        metrics.append(MetricFigures(metric, figure["n"], models, _scale(models)))
    source = str((tuned.definition.get("definition") or {}).get("source") or tuned.definition.get("origin") or "")
    return SuiteFigures(name, tuned.path.name, source, tuple(metrics), overlap)


def row_figures(name: str, report: Mapping[str, Any]) -> SuiteFigures:
    """Return the scores of a report on rows; exact match has an interval."""
    models = {"base": report["base"]} if "base" in report else {}
    models["tuned"] = report["metrics"]
    right = {
        "base": [float(item["base_correct"]) for item in report["items"] if "base_correct" in item],
        "tuned": [float(item["correct"]) for item in report["items"]],
    }
    metrics = []
    for metric, number in (("exact_match", "items"), ("stopped_share", "items"), ("loss", "examples")):
        figures = {
            model: asdict(estimate_mean(right[model]))
            if metric == "exact_match" and right[model]
            else {"value": values[metric], "low": None, "high": None, "n": values[number]}
            for model, values in models.items()
            if values.get(metric) is not None
        }
        if "tuned" in figures:
            metrics.append(MetricFigures(metric, models["tuned"][number], figures, _scale(figures)))
    return SuiteFigures(name, f"{report['name']}.json", str(report["data"]["prepared_dir"]), tuple(metrics))


def _scale(models: Mapping[str, Figure]) -> float | None:
    """Return the value at the right end of bars: 1 for shares, else slightly above the largest value."""
    values = [figure[key] for figure in models.values() for key in ("value", "low", "high") if figure[key] is not None]
    if not values or min(values) < 0:
        return None
    return 1.0 if max(values) <= 1 else 1.05 * max(values)


def unique_names(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return the names; where several suites have one name, the names of their directories."""
    return [name if list(names).count(name) == 1 else place for name, place in zip(names, places, strict=True)]
