"""What more training rows, or a source, are worth: ``sft compare RUN RUN RUN --fractions``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sft_cli.compare.changes import changed_config
from sft_cli.compare.comparison import smaller_is_better
from sft_cli.compare.curve import Curve, fit_log_linear, fit_power_law
from sft_cli.compare.results import read_results
from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.errors import SftError
from sft_cli.run_dir import SWEEP_RECORD, RunDir, open_run
from sft_cli.scoring.distributions import student_quantile
from sft_cli.scoring.statistics import CONFIDENCE, Estimate, estimate_mean, paired_difference
from sft_cli.utils.home import expand_home

LOSS = "loss"
"""The metric of the best held-out loss, from metrics.jsonl."""
VARIED = ("data.fraction", "data.leave_out", "trainer.seed")
"""Keys in which the runs may differ."""


@dataclass(frozen=True)
class FractionRun:
    """A run with its training rows and its score.

    Attributes:
        path: The run directory.
        fraction: ``data.fraction``.
        left_out: ``data.leave_out``, sorted.
        rows: Distinct training rows.
        value: Its score.
        scores: The score of each item, by id; empty for the held-out loss.
        clusters: The cluster of each item.
    """

    path: str
    fraction: float
    left_out: tuple[str, ...]
    rows: int
    value: float
    scores: Mapping[str, float]
    clusters: Mapping[str, str]


@dataclass(frozen=True)
class SourceWorth:
    """What some sources are worth.

    Attributes:
        sources: The sources that were left out together.
        rows: Their training rows.
        with_them: Mean score of the runs with all sources.
        without: Mean score of the runs without these.
        gain: How much better the runs with them are; positive if the sources help.
    """

    sources: tuple[str, ...]
    rows: int
    with_them: float
    without: float
    gain: Estimate


@dataclass(frozen=True)
class FractionReport:
    """The runs, the curve through those with all sources (None with fewer than two sizes), the sources, and notes."""

    metric: str
    runs: Sequence[FractionRun]
    curve: Curve | None
    sources: Sequence[SourceWorth]
    notes: Sequence[str]


def fraction_report(paths: Sequence[str], metric: str = LOSS) -> FractionReport:
    """Return what more rows and the sources are worth.

    Args:
        paths: Run directories, or those of sweeps, which stand for their runs.
        metric: ``loss``, or ``SUITE.METRIC`` of results of ``sft eval``; ``heldout.exact_match`` for held-out rows.

    Raises:
        SftError: A run has no such score, or the runs differ in neither rows nor sources.
    """
    directories = [run for path in paths for run in _expand(path)]
    runs = [_read(run, metric) for run in directories]
    whole = [run for run in runs if not run.left_out]
    notes = list(_notes(directories))
    curve = _fit(whole, metric) if len({run.rows for run in whole}) > 1 else None
    sources = [_worth(runs, left_out, metric, notes) for left_out in sorted({run.left_out for run in runs} - {()})]
    if curve is None and not sources:
        raise SftError(
            where="sft compare --fractions",
            problem="all runs have the same number of training rows, and none leaves a source out",
            fix="train on parts: sft sweep recipe=NAME data.fraction=0.25,0.5,1, or data.leave_out=[],[SOURCE]",
        )
    return FractionReport(metric, sorted(runs, key=lambda run: (run.left_out, run.rows)), curve,
                          [worth for worth in sources if worth is not None], notes)  # fmt: skip


def _expand(path: str) -> list[RunDir]:
    """Return a run, or the finished runs of a sweep."""
    directory = expand_home(path)
    if (directory / SWEEP_RECORD).is_file():
        found = [RunDir(file.parent) for file in sorted(directory.glob("*/config.yaml"))]
        return [run for run in found if run.adapter.is_dir() or run.model.is_dir()]
    return [open_run(path, "sft compare --fractions")]


def _read(run: RunDir, metric: str) -> FractionRun:
    """Return a run with its score."""
    data = read_yaml(run.config).get("data", {})
    sources = run.read_json(run.manifest)["mix"]["sources"] if run.manifest.is_file() else None
    if not sources:
        fix = "train it again: sft train recipe=NAME data.fraction=0.5"
        raise SftError(where=str(run.manifest), problem="the file that counts the training rows is missing", fix=fix)
    rows = sum(source["distinct_rows"] for source in sources.values())
    value, scores, clusters = _loss(run) if metric == LOSS else _suite_scores(run, metric)
    left_out = tuple(sorted(data.get("leave_out") or ()))
    return FractionRun(str(run.path), float(data.get("fraction", 1.0)), left_out, rows, value, scores, clusters)


def _loss(run: RunDir) -> tuple[float, Mapping[str, float], Mapping[str, str]]:
    """Return the best held-out loss."""
    lines = map(json.loads, run.metrics.read_text(encoding="utf-8").splitlines()) if run.metrics.is_file() else ()
    losses = [line["loss"] for line in lines if line.get("eval") and line.get("loss") is not None]
    if not losses:
        fix = "train with held-out rows (data.val_fraction=0.05), or name a suite: --metric SUITE.METRIC"
        raise SftError(where=str(run.metrics), problem="the run has no held-out loss", fix=fix)
    return min(losses), {}, {}


def _suite_scores(run: RunDir, metric: str) -> tuple[float, Mapping[str, float], Mapping[str, str]]:
    """Return the mean score of the trained model, and that of each item."""
    suite, _, name = metric.partition(".")
    report = run.eval / "heldout.json"
    if metric == "heldout.exact_match" and report.is_file():
        scores = {item["where"]: float(item["correct"]) for item in run.read_json(report)["items"]}
        clusters: Mapping[str, str] = {}
    else:
        records = [record for record in read_results(run) if record.suite == suite and not record.is_base]
        record = max(records, key=lambda found: len(found.scores), default=None)
        scores = {} if record is None else {id: own[name] for id, own in record.scores.items() if name in own}
        clusters = {} if record is None else record.clusters
    if not scores:
        fix = f"evaluate it: sft eval {run.path} eval={suite}, and name --metric SUITE.METRIC"
        raise SftError(where=f"--metric {metric}", problem=f"{run.path} has no such score", fix=fix)
    return sum(scores.values()) / len(scores), scores, clusters


def _notes(runs: Sequence[RunDir]) -> list[str]:
    """Return what else differs between the runs."""
    keys = {key for run in runs[1:] for key in changed_config(runs[0], run)}
    others = sorted(key for key in keys if key not in VARIED and not key.startswith(("run_", "prepared_dir")))
    return [f"the runs also differ in {', '.join(others)}"] if others else []


def _fit(runs: Sequence[FractionRun], metric: str) -> Curve:
    """Return the curve through runs with all sources."""
    rows = [run.rows for run in runs]
    if metric == LOSS:
        return fit_power_law(rows, [run.value for run in runs])
    ids = _common_items(runs)
    scores = [[run.scores[id] for id in ids] for run in runs]
    return fit_log_linear(rows, scores, [runs[0].clusters.get(id, "") for id in ids])


def _common_items(runs: Sequence[FractionRun]) -> list[str]:
    """Return the items that all runs answered, in the order of the first."""
    ids = [id for id in runs[0].scores if all(id in run.scores for run in runs)]
    if not ids:
        fix = "evaluate all of them with the same suite: sft eval RUN eval=SUITE"
        raise SftError(where="sft compare --fractions", problem="the runs answered no item in common", fix=fix)
    return ids


def _worth(runs: Sequence[FractionRun], left_out: tuple[str, ...], metric: str, notes: list[str]) -> SourceWorth | None:
    """Return what some sources are worth, from runs of equal ``data.fraction``; None without such a pair."""
    without = [run for run in runs if run.left_out == left_out]
    fraction = max(run.fraction for run in without)
    without = [run for run in without if run.fraction == fraction]
    whole = [run for run in runs if not run.left_out and run.fraction == fraction]
    if not whole:
        notes.append(f"no run with all sources and data.fraction={fraction:g} to compare {', '.join(left_out)} with")
        return None
    groups = [run.value for run in without], [run.value for run in whole]
    sign = -1.0 if metric == LOSS or smaller_is_better(metric.partition(".")[2]) else 1.0
    if metric == LOSS:
        gain = _between_runs(*groups, sign)
        if gain.low is None:
            notes.append("the gain has an interval with three runs or more: sft sweep … trainer.seed=1,2")
    else:
        ids = _common_items([*without, *whole])
        first, second = (
            [sign * float(np.mean([run.scores[id] for run in group])) for id in ids] for group in (without, whole)
        )
        found = paired_difference(first, second, [whole[0].clusters.get(id, "") for id in ids])
        assert found is not None, "there are items"
        gain = Estimate(found.value, found.low, found.high, found.n, found.clusters)
    means_of = [sum(group) / len(group) for group in groups]
    return SourceWorth(left_out, whole[0].rows - without[0].rows, means_of[1], means_of[0], gain)


def _between_runs(first: Sequence[float], second: Sequence[float], sign: float) -> Estimate:
    """Return the signed difference of the means of two groups of runs, with a pooled t interval from three runs on."""
    value = sign * float(np.mean(second) - np.mean(first))
    free = len(first) + len(second) - 2
    if free < 1:
        return Estimate(value, None, None, len(first) + len(second), 2)
    squares = sum(float(np.var(group)) * len(group) for group in (first, second))
    width = student_quantile(CONFIDENCE, free) * (squares / free * (1 / len(first) + 1 / len(second))) ** 0.5
    return Estimate(value, value - width, value + width, len(first) + len(second), 2)


def score_interval(run: FractionRun) -> Estimate:
    """Return the score of a run with its interval over items; no interval for a loss."""
    if not run.scores:
        return Estimate(run.value, None, None, 0, 0)
    return estimate_mean(list(run.scores.values()), [run.clusters.get(id, "") for id in run.scores])


def as_values(report: FractionReport) -> dict[str, Any]:
    """Return a report as plain values."""
    largest = max((run.rows for run in report.runs if not run.left_out), default=0)
    values = asdict(report)
    if report.curve is not None:
        values["doubling"] = asdict(report.curve.doubling(largest)) | {"rows": largest}
    return values
