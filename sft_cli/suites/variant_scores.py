"""How much a score drops from the plain questions of a suite to their variants."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sft_cli.scoring.statistics import estimate_mean, interval_text, paired_difference
from sft_cli.suites.items import SuiteItem

VARIANT_COLUMNS = ("suite", "variant", "metric", "n", "score", "drop", "95%")


def variant_scores(
    entries: Sequence[SuiteItem], values: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each score of the questions of each variant, and its drop.

    The drop is the mean of (score of the plain question - score of its variant) over the items that have both.

    Args:
        entries: The answered items.
        values: Scores of each item, by id and metric.

    Returns:
        By variant and metric ``{value, low, high, n, clusters, drop}``; ``drop`` has the same keys and a p-value, and
        is missing for plain questions. Empty without variants.
    """
    groups: dict[str, list[SuiteItem]] = {}
    for entry in entries:
        if entry.plain:
            groups.setdefault(entry.item.tags["variant"], []).append(entry)
    return {
        variant: {metric: _scores(members, values, metric) for metric in _metrics(members, values)}
        for variant, members in groups.items()
    }


def _metrics(members: Sequence[SuiteItem], values: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for entry in members for name in values[entry.item.id]))


def _scores(members: Sequence[SuiteItem], values: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, Any]:
    """Return one score of one variant, and its drop."""
    having = [entry for entry in members if metric in values[entry.item.id]]
    scores = [values[entry.item.id][metric] for entry in having]
    found = asdict(estimate_mean(scores, [entry.item.cluster for entry in having]))
    paired = [entry for entry in having if metric in values.get(entry.plain, {}) and entry.plain != entry.item.id]
    drop = paired_difference(
        [values[entry.item.id][metric] for entry in paired],
        [values[entry.plain][metric] for entry in paired],
        [entry.item.cluster for entry in paired],
    )
    return found if drop is None else {**found, "drop": asdict(drop)}


def variant_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[list[str | int | float | None]]:
    """Return the rows of the table of variants, below ``VARIANT_COLUMNS``.

    Args:
        scores: Content of scores.json by suite.
    """
    rows: list[list[str | int | float | None]] = []
    for suite, content in scores.items():
        for variant, metrics in content.get("variants", {}).items():
            for metric, figure in metrics.items():
                drop = figure.get("drop")
                change = [None, ""] if drop is None else [drop["value"], interval_text(drop["low"], drop["high"])]
                rows.append([suite, variant, metric, figure["n"], figure["value"], *change])
    return rows
