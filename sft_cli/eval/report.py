"""The report of an evaluation: a file below eval/ for each choice of rows and settings, and the table a person sees."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.schema.config import Config
from sft_cli.console import table
from sft_cli.eval.evaluate import Evaluation, Metrics, Scores
from sft_cli.eval.report_name import settings
from sft_cli.eval.select_rows import Rows
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

VERSION = 1
"""Raised whenever the same answers would score otherwise, or a field changes its meaning."""
NUMBERS = {
    "loss": ("loss", 1.0),
    "perplexity": ("perplexity", 1.0),
    "exact match %": ("exact_match", 100.0),
    "stopped %": ("stopped_share", 100.0),
}
"""Heading in the table -> field of the scores, and the factor it is shown with."""
_OF_BASE = ("base_answer", "base_correct")
ALL = ""
"""Stands for all sources; no source is called so."""


def as_json(
    name: str, run: RunDir, rows: Rows, config: Config, tuned: Evaluation, base: Evaluation | None
) -> dict[str, Any]:
    """The report as plain JSON values; a number that is not finite becomes null.

    Args:
        name: The report's, from ``name_of``.
        run: The run.
        rows: What was evaluated on.
        config: What it was evaluated with.
        tuned: The run's figures.
        base: The base model's, where it was evaluated too.
    """
    report: dict[str, Any] = {
        "suite": "heldout" if rows.own else "other rows",
        "name": name,
        "version": VERSION,
        "model": str(run.result),
        "sft_cli": __version__,
        "data": {"prepared_dir": str(rows.directory), "fingerprint": rows.fingerprint, "split": rows.side}
        | ({} if rows.seen is None else {"trained_on": len(rows.seen.same), "prompt_trained_on": len(rows.seen.asked)}),
        "settings": settings(config),
        "metrics": _plain(tuned.metrics),
    }
    if base is not None:
        report["base"] = _plain(base.metrics)
    report["items"] = [_item(tuned, base, place) for place in range(len(tuned.items))]
    return report


def with_base(report: dict[str, Any], file: Path) -> dict[str, Any]:
    """The report with the base model's figures of an earlier one of the same rows and settings, if it has none."""
    if "base" in report or not file.is_file():
        return report
    earlier = json.loads(file.read_text(encoding="utf-8"))
    same = all(earlier.get(key) == report[key] for key in ("version", "settings", "data"))
    if not same or "base" not in earlier or len(earlier["items"]) != len(report["items"]):
        return report
    answers = ({name: item[name] for name in _OF_BASE if name in item} for item in earlier["items"])
    items = [item | answer for item, answer in zip(report["items"], answers, strict=True)]
    return {**report, "base": earlier["base"], "items": items}


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
    return {
        **nan_to_none(asdict(metrics.overall)),
        "sources": {name: nan_to_none(asdict(one)) for name, one in metrics.sources.items()},
    }


def write(report: Mapping[str, Any], file: Path) -> None:
    """Write the report whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def show(tuned: Metrics, base: Metrics | None = None) -> None:
    """Print a row for each source, and one over all where there are several; with a base, one for each model."""
    table(*cells(tuned, base))


def cells(tuned: Metrics, base: Metrics | None = None) -> tuple[list[str], list[list[Any]]]:
    """The table's columns and rows, one for each source and model; a column without any value is left out."""
    groups = [*tuned.sources, *([ALL] if len(tuned.sources) > 1 else [])]
    models = {"tuned": tuned} if base is None else {"base": base, "tuned": tuned}
    lines = [(group or "all", name, _scores(of, group)) for group in groups for name, of in models.items()]
    columns: dict[str, list[Any]] = {"source": [group for group, _, _ in lines]}
    if base is not None:
        columns["model"] = [name for _, name, _ in lines]
    columns["examples"] = [found.examples for _, _, found in lines]
    answered = [found.items for _, _, found in lines]
    if any(answered) and answered != columns["examples"]:
        columns["answered"] = answered
    for heading, (field, factor) in NUMBERS.items():
        values = [asdict(found)[field] for _, _, found in lines]
        columns[heading] = [None if value is None else factor * value for value in values]
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _scores(metrics: Metrics, group: str) -> Scores:
    """The scores of a source, or of all."""
    return metrics.overall if group == ALL else metrics.sources[group]
