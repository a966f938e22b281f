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
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

REPORT_VERSION = 1
"""Increased whenever the scores of the same answers, or the meaning of a field, change."""
SCORE_COLUMNS = {
    "loss": ("loss", 1.0),
    "perplexity": ("perplexity", 1.0),
    "exact match %": ("exact_match", 100.0),
    "stopped %": ("stopped_share", 100.0),
}
"""For each heading of the table, the field of the scores and its factor."""
_BASE_FIELDS = ("base_answer", "base_correct")
ALL_SOURCES = ""
"""The key of all sources together; no source has this name."""


def build_report(
    name: str, model: str, rows: EvalRows, config: Config, tuned: Evaluation, base: Evaluation | None
) -> dict[str, Any]:
    """Build the report as plain JSON values; a number that is not finite becomes null.

    Args:
        name: Name of the report, from ``report_name``.
        model: Directory or hub id of the model.
        rows: The rows of the evaluation.
        config: The settings of the evaluation.
        tuned: The result of the trained model.
        base: The result of the base model, if it was evaluated.
    """
    report: dict[str, Any] = {
        "suite": "heldout" if rows.is_run_holdout else "other rows",
        "name": name,
        "version": REPORT_VERSION,
        "model": model,
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
    report["items"] = [_answer_entry(tuned, base, index) for index in range(len(tuned.items))]
    return report


def keep_base_scores(report: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add the base model's scores from an earlier report with the same rows and settings, if the new one has none."""
    if "base" in report or not file.is_file():
        return report
    previous = json.loads(file.read_text(encoding="utf-8"))
    same = all(previous.get(key) == report[key] for key in ("version", "settings", "data"))
    if not same or "base" not in previous or len(previous["items"]) != len(report["items"]):
        return report
    answers = ({name: item[name] for name in _BASE_FIELDS if name in item} for item in previous["items"])
    items = [item | answer for item, answer in zip(report["items"], answers, strict=True)]
    return {**report, "base": previous["base"], "items": items}


def _answer_entry(tuned: Evaluation, base: Evaluation | None, index: int) -> dict[str, Any]:
    """Return a question with its answers, as JSON values."""
    item, answer = tuned.items[index], tuned.answers[index]
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
        entry |= {"base_answer": base.answers[index].text, "base_correct": base.answers[index].correct}
    return entry


def _metrics_json(metrics: EvalMetrics) -> dict[str, Any]:
    """Return the metrics as JSON values."""
    return {
        **nan_to_none(asdict(metrics.overall)),
        "sources": {name: nan_to_none(asdict(scores)) for name, scores in metrics.sources.items()},
        "groups": {
            group: {value: nan_to_none(asdict(loss)) for value, loss in values.items()}
            for group, values in metrics.groups.items()
        },
    }


def write_eval_report(report: Mapping[str, Any], file: Path) -> None:
    """Write the report atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def print_scores(tuned: EvalMetrics, base: EvalMetrics | None = None) -> None:
    """Print the table of scores; see ``score_table``."""
    table(*score_table(tuned, base))


def score_table(tuned: EvalMetrics, base: EvalMetrics | None = None) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the table of scores, without columns that have no value.

    There is a row for each source, one for all if there are several, and with a base model one for each model.
    """
    groups = [*tuned.sources, *([ALL_SOURCES] if len(tuned.sources) > 1 else [])]
    models = {"tuned": tuned} if base is None else {"base": base, "tuned": tuned}
    lines = [(group or "all", name, _scores_of(metrics, group)) for group in groups for name, metrics in models.items()]
    columns: dict[str, list[Any]] = {"source": [group for group, _, _ in lines]}
    if base is not None:
        columns["model"] = [name for _, name, _ in lines]
    columns["examples"] = [scores.examples for _, _, scores in lines]
    answered = [scores.items for _, _, scores in lines]
    if any(answered) and answered != columns["examples"]:
        columns["answered"] = answered
    for heading, (field, factor) in SCORE_COLUMNS.items():
        values = [asdict(scores)[field] for _, _, scores in lines]
        columns[heading] = [None if value is None else factor * value for value in values]
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _scores_of(metrics: EvalMetrics, group: str) -> EvalScores:
    """Return the scores of a source, or of all sources."""
    return metrics.overall if group == ALL_SOURCES else metrics.sources[group]
