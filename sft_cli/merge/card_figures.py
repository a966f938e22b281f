"""The measurements of a run for its model card: only values that are in its files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.config.compose import read_config
from sft_cli.config.schema.config import Config
from sft_cli.run_dir import RunDir
from sft_cli.utils.hashing import model_digest

HELD_OUT = "heldout"
BASE, TUNED = "base", "tuned"
TAX = "alignment_tax.json"
Figure = Mapping[str, Any]
"""``{value, low, high, n}``: a mean, its 95% interval (null without one), and its number of items."""


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """A metric of a suite.

    Attributes:
        suite: Name of the suite; ``heldout`` for the held-out rows of the run.
        place: Name of its directory below ``eval/``.
        metric: Name of the metric.
        tuned: The figure of the trained model.
        base: That of the base model on the same items with the same settings; None if it was not measured.
    """

    suite: str
    place: str
    metric: str
    tuned: Figure
    base: Figure | None


@dataclass(frozen=True, slots=True)
class CardFigures:
    """The measurements for a card.

    Attributes:
        training: Measurements of training by name.
        suites: Scores with intervals.
        tax: Content of ``alignment_tax.json``; None if it was not measured.
        probes: Rows of the retention probes: name, metric, base, trained model, step.
        other_weights: Names of results of other weights, such as those of an earlier step, which the card leaves out.
    """

    training: Mapping[str, Any]
    suites: Sequence[SuiteScore]
    tax: Mapping[str, Any] | None
    probes: Sequence[tuple[str, str, float, float, int]]
    other_weights: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Result:
    """The scores of one suite and model: what identifies the items, and whose weights were evaluated."""

    name: str
    place: str
    label: str
    weights: str | None
    key: Any
    metrics: Mapping[str, Figure]


def card_figures(run: RunDir, config: Config) -> CardFigures:
    """Read all measurements of a run.

    Args:
        run: The run.
        config: Its config; ``model.path`` may have been overridden.
    """
    results = list(_results(run))
    known = _known_weights(run, config) if any(one.weights for one in results if one.label == TUNED) else set()
    tuned = [one for one in results if one.label == TUNED]
    kept = [one for one in tuned if one.weights is None or one.weights in known]
    bases = [one for one in results if one.label == BASE]
    scores = []
    for one in kept:
        base = next((other for other in bases if other.key == one.key), None)
        for metric, figure in one.metrics.items():
            if is_metric_value(figure["value"]):
                scores.append(SuiteScore(one.name, one.place, metric, figure, base and base.metrics.get(metric)))
    left_out = [one.place for one in tuned if one not in kept]
    tax = run.eval / TAX
    return CardFigures(
        run_results(run, with_heldout=not any(one.name == HELD_OUT for one in kept)),
        scores,
        run.read_json(tax) if tax.is_file() and not left_out else None,
        list(_probes(run)),
        left_out,
    )


def _results(run: RunDir) -> Iterator[_Result]:
    """Yield the scores in ``eval/``: those of the run's own held-out rows, then those of suites."""
    for label in (TUNED, BASE):
        file = run.eval / f"{HELD_OUT}-{label}" / "scores.json"
        if file.is_file():
            yield _Result(HELD_OUT, file.parent.name, label, None, HELD_OUT, run.read_json(file)["metrics"])
    for file in sorted(run.eval.glob("*/suite.json")):
        scores = file.with_name("scores.json")
        if not scores.is_file():
            continue
        suite = run.read_json(file)
        model = suite.get("model", {})
        key = [suite["suite"], suite.get("settings"), suite.get("data")]
        metrics = run.read_json(scores).get("metrics", {})
        yield _Result(suite["suite"], file.parent.name, model.get("label", ""), model.get("weights"), key, metrics)


def _known_weights(run: RunDir, config: Config) -> set[str]:
    """Return the digests by which ``sft eval`` names the run's trained weights."""
    configs = [config, *([read_config(run.config)] if run.config.is_file() else [])]
    origins = [
        {"base": one.model.path, "revision": one.model.revision, "quant": one.quant.kind.value} for one in configs
    ]
    return {model_digest(run.result, origin) for origin in origins}


def _probes(run: RunDir) -> Iterator[tuple[str, str, float, float, int]]:
    """Yield the retention probes with their values before training and at the exported step."""
    if not run.retention.is_file() or not run.metrics.is_file():
        return
    end = run.read_json(run.end) if run.end.is_file() else {}
    lines = [line for line in _lines(run.metrics) if "retention" in line]
    lines = [line for line in lines if line["step"] == end.get("exported_step", line["step"])]
    if not lines:
        return
    last = lines[-1]
    for name, entry in run.read_json(run.retention).items():
        value = last["retention"].get(name)
        if is_metric_value(value):
            yield name, entry["metric"], entry["value"], value, last["step"]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run_results(run: RunDir, *, with_heldout: bool = True) -> dict[str, Any]:
    """Return the measurements of the run: losses in nats, and sft eval's metrics on its held-out rows if asked."""
    lines = [line for line in _lines(run.metrics) if "retention" not in line]
    steps = [line for line in lines if not line.get("eval")]
    result: dict[str, Any] = {}
    if steps:
        result["steps"] = steps[-1]["step"]
        counted = [step for step in steps if None not in (step["loss"], step.get("grad_norm", 0.0))]
        if len(counted) < len(steps):
            result["skipped steps (loss or gradient not finite)"] = len(steps) - len(counted)
        result["tokens trained on"] = sum(step["trained_tokens"] for step in counted)
        result["training loss of the last step"] = steps[-1]["loss"]
    evaluated = [line for line in lines if line.get("eval") and isinstance(line["loss"], float)]
    if evaluated:
        best = min(evaluated, key=lambda line: line["loss"])
        result[f"best held-out loss (step {best['step']})"] = best["loss"]
    for file in run.eval.glob("heldout.json") if with_heldout else ():  # other rows and settings have separate reports
        report = run.read_json(file)
        for label, metrics in (("", report["metrics"]), (", base model", report.get("base", {}))):
            result |= {
                f"{file.stem}: {name}{label}": value for name, value in metrics.items() if is_metric_value(value)
            }
    return result


def is_metric_value(value: Any) -> bool:
    """Return whether a metric is a number, neither missing nor a flag nor a group of metrics."""
    return isinstance(value, int | float) and not isinstance(value, bool)
