"""The scores of held-out rows in the form of those of a suite: ``eval/<name>-<model>/scores.json``, and their table."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli.eval.evaluate import EvalMetrics, Evaluation
from sft_cli.eval.heldout import GroupLoss
from sft_cli.eval.heldout_groups import SOURCE
from sft_cli.scoring.statistics import estimate_mean, interval_text
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

MAX_VALUES = 20
"""Most values of a tag in the printed table; scores.json has all."""


def heldout_scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return metrics with their intervals, the same by source, turn, length and tag, and counts."""
    metrics, answers = evaluation.metrics, evaluation.answers
    assert metrics.loss is not None, "the loss was measured"
    found = _loss_figures(metrics.loss)
    if answers:
        found["exact_match"] = asdict(estimate_mean([float(answer.correct) for answer in answers]))
        found["stopped_share"] = asdict(estimate_mean([float(answer.stopped) for answer in answers]))
    by_tag = {
        group: {value: _loss_figures(loss) for value, loss in values.items()}
        for group, values in metrics.groups.items()
    }
    by_tag[SOURCE] = {
        name: {field: _figure(asdict(scores)[field], scores.examples) for field in ("loss", "perplexity")}
        for name, scores in metrics.sources.items()
    }
    counts = {"items": metrics.overall.examples, "answered": metrics.overall.examples, "answers": len(answers)}
    return {"metrics": found, "by_tag": by_tag, "counts": counts}


def write_heldout_scores(directory: Path, name: str, label: str, evaluation: Evaluation) -> None:
    """Write ``<name>-<label>/scores.json`` into a run's directory of evaluations.

    Args:
        directory: The directory of evaluations.
        name: Name of the report, from ``report_name``.
        label: Which model of the run it is.
        evaluation: Its results.
    """
    file = directory / f"{name}-{label}" / "scores.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(nan_to_none(heldout_scores(evaluation)), ensure_ascii=False, indent=1, allow_nan=False)
    write_atomic(file, text + "\n")


def group_table(tuned: EvalMetrics, base: EvalMetrics | None) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the losses by turn, length and tag; groups with one value are left out."""
    columns = ["group", "value", "examples", *(["base loss"] if base else []), "loss", "95%", "perplexity"]
    rows: list[list[Any]] = []
    for group, values in tuned.groups.items():
        shown = sorted(values.items(), key=lambda pair: -pair[1].examples)[:MAX_VALUES] if len(values) > 1 else []
        for value, loss in (pair for pair in values.items() if pair in shown):
            other = base.groups.get(group, {}).get(value) if base else None
            before = [other.loss if other else None] if base else []
            rows.append([group, value, loss.examples, *before, loss.loss, interval_text(loss.low, loss.high),
                         loss.perplexity])  # fmt: skip
    return columns, rows


def _loss_figures(loss: GroupLoss) -> dict[str, Any]:
    """Return the loss and the perplexity of a group; the interval of the perplexity is that of the loss, as powers."""
    low, high = (None if end is None else _power(end) for end in (loss.low, loss.high))
    return {
        "loss": _figure(loss.loss, loss.examples, loss.low, loss.high),
        "perplexity": _figure(loss.perplexity, loss.examples, low, high),
    }


def _power(nats: float) -> float:
    """Return exp(nats); inf if float64 overflows."""
    return math.exp(nats) if nats < 700 else math.inf


def _figure(value: float, n: int, low: float | None = None, high: float | None = None) -> Mapping[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "clusters": n}
