"""The report of an evaluation: eval/<suite>.json, and the table a person sees."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.rundir import RunDir
from sft_cli.console import table
from sft_cli.eval.evaluate import Evaluation, Metrics, Scores
from sft_cli.eval.rows import Rows

VERSION = 1
"""Raised whenever the same answers would score otherwise, or a field changes its meaning."""
NUMBERS = {
    "loss": ("loss", 1.0),
    "perplexity": ("perplexity", 1.0),
    "exact match %": ("exact_match", 100.0),
    "stopped %": ("stopped_share", 100.0),
}
"""Heading in the table -> field of the scores, and the factor it is shown with."""
ALL = ""
"""Stands for all sources; no source is called so."""


def as_json(suite: str, run: RunDir, rows: Rows, tuned: Evaluation, base: Evaluation | None) -> dict[str, Any]:
    """The report as plain JSON values; a number that is not finite becomes null."""
    report: dict[str, Any] = {
        "suite": suite,
        "version": VERSION,
        "model": str(run.result),
        "sft_cli": __version__,
        "data": {"prepared_dir": str(rows.directory), "fingerprint": rows.fingerprint, "split": rows.side},
        "metrics": _plain(tuned.metrics),
    }
    if base is not None:
        report["base"] = _plain(base.metrics)
    report["items"] = [_item(tuned, base, place) for place in range(len(tuned.items))]
    return report


def _item(tuned: Evaluation, base: Evaluation | None, place: int) -> dict[str, Any]:
    """One item with its answers."""
    item, answer = tuned.items[place], tuned.answers[place]
    entry = {
        "where": item.where,
        "source": item.source,
        "prompt": item.prompt,
        "expected": item.expected,
        "answer": answer.text,
        "correct": answer.correct,
        "stopped": answer.stopped,
        "truncated": answer.truncated,
    }
    if base is not None:
        entry |= {"base_answer": base.answers[place].text, "base_correct": base.answers[place].correct}
    return entry


def _plain(metrics: Metrics) -> dict[str, Any]:
    """Metrics as JSON values."""
    return {**_finite(metrics.overall), "sources": {name: _finite(one) for name, one in metrics.sources.items()}}


def _finite(scores: Scores) -> dict[str, Any]:
    values: Mapping[str, Any] = asdict(scores)
    return {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}


def write(report: Mapping[str, Any], file: Path) -> None:
    """Write the report whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.tmp")
    with new.open("w", encoding="utf-8") as stream:
        json.dump(report, stream, ensure_ascii=False, indent=1, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


def show(tuned: Metrics, base: Metrics | None = None) -> None:
    """Print one row per source, and one over all where there are several; with a base, both models side by side."""
    table(*cells(tuned, base))


def cells(tuned: Metrics, base: Metrics | None = None) -> tuple[list[str], list[list[Any]]]:
    """The table's columns and rows; a column without any value, or that says nothing new, is left out."""
    groups = [*tuned.sources, *([ALL] if len(tuned.sources) > 1 else [])]
    models = {"": tuned} if base is None else {"base ": base, "tuned ": tuned}
    columns: dict[str, list[Any]] = {
        "source": [group or "all" for group in groups],
        "examples": [_scores(tuned, group).examples for group in groups],
    }
    answered = [_scores(tuned, group).items for group in groups]
    if any(answered) and answered != columns["examples"]:
        columns["answered"] = answered
    for heading, (field, factor) in NUMBERS.items():
        for label, metrics in models.items():
            if field == "stopped_share" and metrics is base:
                continue  # the table stays within a terminal
            values = [asdict(_scores(metrics, group))[field] for group in groups]
            columns[label + heading] = [None if value is None else factor * value for value in values]
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _scores(metrics: Metrics, group: str) -> Scores:
    """The scores of a source, or of all."""
    return metrics.overall if group == ALL else metrics.sources[group]
