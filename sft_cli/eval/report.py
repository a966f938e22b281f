"""The report of an evaluation: a JSON file in eval/ for each choice of rows and settings, and the printed table."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.schema.config import Config
from sft_cli.console import table
from sft_cli.eval.evaluate import EvalMetrics, EvalScores, Evaluation
from sft_cli.eval.report_name import eval_settings
from sft_cli.eval.select_rows import EvalRows
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

REPORT_VERSION = 1
"""Increased whenever the same answers would get other scores, or a field changes its meaning."""
SCORE_COLUMNS = {
    "loss": ("loss", 1.0),
    "perplexity": ("perplexity", 1.0),
    "exact match %": ("exact_match", 100.0),
    "stopped %": ("stopped_share", 100.0),
}
"""Heading in the table -> field of the scores, and the factor it is shown with."""
_BASE_FIELDS = ("base_answer", "base_correct")
ALL_SOURCES = ""
"""The key of all sources together; no source has this name."""


def build_report(
    name: str, run: RunDir, rows: EvalRows, config: Config, tuned: Evaluation, base: Evaluation | None
) -> dict[str, Any]:
    """Build the report as plain JSON values; a number that is not finite becomes null.

    Args:
        name: Name of the report, from ``report_name``.
        run: The run.
        rows: The rows it was evaluated on.
        config: The settings of the evaluation.
        tuned: The result of the run.
        base: The result of the base model, where it was evaluated too.
    """
    report: dict[str, Any] = {
        "suite": "heldout" if rows.is_run_holdout else "other rows",
        "name": name,
        "version": REPORT_VERSION,
        "model": str(run.result),
        "sft_cli": __version__,
        "data": {"prepared_dir": str(rows.directory), "fingerprint": rows.fingerprint, "split": rows.side}
        | (
            {}
            if rows.overlap is None
            else {"trained_on": len(rows.overlap.examples), "prompt_trained_on": len(rows.overlap.prompts)}
        ),
        "settings": eval_settings(config),
        "metrics": _metrics_json(tuned.metrics),
    }
    if base is not None:
        report["base"] = _metrics_json(base.metrics)
    report["items"] = [_answer_entry(tuned, base, place) for place in range(len(tuned.items))]
    return report


def keep_base_scores(report: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add the base model's scores of an earlier report of the same rows and settings, where the new one has none."""
    if "base" in report or not file.is_file():
        return report
    earlier = json.loads(file.read_text(encoding="utf-8"))
    same = all(earlier.get(key) == report[key] for key in ("version", "settings", "data"))
    if not same or "base" not in earlier or len(earlier["items"]) != len(report["items"]):
        return report
    answers = ({name: item[name] for name in _BASE_FIELDS if name in item} for item in earlier["items"])
    items = [item | answer for item, answer in zip(report["items"], answers, strict=True)]
    return {**report, "base": earlier["base"], "items": items}


def _answer_entry(tuned: Evaluation, base: Evaluation | None, place: int) -> dict[str, Any]:
    """Return one question with its answers."""
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


def _metrics_json(metrics: EvalMetrics) -> dict[str, Any]:
    """Return the metrics as JSON values."""
    return {
        **nan_to_none(asdict(metrics.overall)),
        "sources": {name: nan_to_none(asdict(one)) for name, one in metrics.sources.items()},
    }


def write_eval_report(report: Mapping[str, Any], file: Path) -> None:
    """Write the report atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def print_scores(tuned: EvalMetrics, base: EvalMetrics | None = None) -> None:
    """Print a row for each source, and one for all where there are several; with a base, one for each model."""
    table(*score_table(tuned, base))


def score_table(tuned: EvalMetrics, base: EvalMetrics | None = None) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the table, a row per source and model, without columns that have no value."""
    groups = [*tuned.sources, *([ALL_SOURCES] if len(tuned.sources) > 1 else [])]
    models = {"tuned": tuned} if base is None else {"base": base, "tuned": tuned}
    lines = [(group or "all", name, _scores_of(of, group)) for group in groups for name, of in models.items()]
    columns: dict[str, list[Any]] = {"source": [group for group, _, _ in lines]}
    if base is not None:
        columns["model"] = [name for _, name, _ in lines]
    columns["examples"] = [found.examples for _, _, found in lines]
    answered = [found.items for _, _, found in lines]
    if any(answered) and answered != columns["examples"]:
        columns["answered"] = answered
    for heading, (field, factor) in SCORE_COLUMNS.items():
        values = [asdict(found)[field] for _, _, found in lines]
        columns[heading] = [None if value is None else factor * value for value in values]
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _scores_of(metrics: EvalMetrics, group: str) -> EvalScores:
    """Return the scores of a source, or of all sources."""
    return metrics.overall if group == ALL_SOURCES else metrics.sources[group]
