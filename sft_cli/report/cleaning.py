"""The filter steps of a manifest and the reports of filters, as the page shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.escape import truncate_middle
from sft_cli.report.sections import MOST, MOST_TEXT, Json, ratio

FILTERS = {
    "leakage": "training rows whose prompt is held out as well",
    "exact_duplicates": "rows that an earlier row equals",
    "near_duplicates": "rows that nearly equal an earlier one",
    "pii": "personal data",
    "language": "rows in another language than those wanted",
    "length": "rows outside the bounds of length",
    "heuristics": "answers that look degenerate",
    "quality": "rows whose score is too low",
    "perplexity": "answers that a model finds too likely or too unlikely",
    "contamination": "rows that hold a prompt of an evaluation set",
}
"""What each filter finds."""


def filter_steps(manifest: Json) -> dict[str, Any]:
    """Return the filter steps in order, and the reports of filters by their kind."""
    steps = manifest.get("clean", [])
    reports = [(step["filter"], step["report"]) for step in steps if step.get("report")]
    return {
        "steps": [
            (step["filter"], FILTERS.get(step["filter"], ""), sum(step["dropped"].values()), step["dropped"])
            for step in steps
        ],
        "clusters": [_clusters(name, report) for name, report in reports if "clusters" in report],
        "pairs": [_pairs(name, report) for name, report in reports if "pairs" in report],
        "languages": [_languages(report) for _, report in reports if "languages" in report],
        "personal": [_pii_counts(report) for _, report in reports if {"kinds", "examples"} <= report.keys()],
    }


def _clusters(name: str, report: Json) -> dict[str, Any]:
    """Clusters of duplicates, the largest first."""
    ordered = sorted(report["clusters"], key=lambda cluster: -cluster["size"])
    shown = [
        {
            **cluster,
            "text": truncate_middle(cluster["text"], MOST_TEXT),
            "dropped": cluster["dropped"][:12],
            "more": max(0, len(cluster["dropped"]) - 12),
        }
        for cluster in ordered[:MOST]
    ]
    number = report.get("num_clusters", len(ordered))
    return {"filter": name, "clusters": shown, "number": number, "rows": report.get("num_rows"), "shown": len(shown)}


def _pairs(name: str, report: Json) -> dict[str, Any]:
    """Pairs of an evaluation prompt and a row that contains it, the highest score first."""
    ordered = sorted(report["pairs"], key=lambda pair: -pair["score"])
    shown = [
        {
            **pair,
            "eval_text": truncate_middle(pair["eval_text"], MOST_TEXT),
            "text": truncate_middle(pair["text"], MOST_TEXT),
        }
        for pair in ordered[:MOST]
    ]
    return {"filter": name, "sets": _table(report.get("sets", {})), "pairs": shown, "more": len(ordered) - len(shown)}


def _table(sets: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and rows of a table of named entries; an entry is one number, or several by name."""
    entries = {name: values if isinstance(values, dict) else {"rows": values} for name, values in sets.items()}
    columns = list(dict.fromkeys(column for values in entries.values() for column in values))
    return {"columns": columns, "rows": [(name, [v.get(c) for c in columns]) for name, v in entries.items()]}


def _languages(report: Json) -> dict[str, Any]:
    """Rows of each language, the most frequent first."""
    ordered: Sequence[tuple[str, int]] = sorted(report["languages"].items(), key=lambda item: -item[1])
    whole = sum(report["languages"].values()) + report.get("undecided", 0)
    shown = [(code, count, ratio(count, whole)) for code, count in ordered[:MOST]]
    undecided = report.get("undecided", 0)
    return {
        "rows": [*shown, ("undecided", undecided, ratio(undecided, whole))] if undecided else shown,
        "more": len(ordered) - len(shown),
    }


def _pii_counts(report: Json) -> dict[str, Any]:
    """Kinds of personal data, and examples."""
    examples = [
        {key: truncate_middle(str(value), MOST_TEXT) for key, value in example.items()} if isinstance(example, dict)
        else {"example": truncate_middle(str(example), MOST_TEXT)}
        for example in report["examples"][:MOST]
    ]  # fmt: skip
    columns = list(dict.fromkeys(column for example in examples for column in example))
    return {"kinds": list(report["kinds"].items()), "columns": columns, "examples": examples}
