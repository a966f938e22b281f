"""The alignment tax: what a run lost on declared suites against its base model, in one number."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sft_cli.compare.comparison import smaller_is_better
from sft_cli.compare.results import SuiteRecord, read_results
from sft_cli.console import counted, say, table
from sft_cli.errors import SftError
from sft_cli.eval_report.items import base_of
from sft_cli.run_dir import RunDir
from sft_cli.scoring.distributions import normal_quantile
from sft_cli.scoring.statistics import CONFIDENCE, Difference, interval_text, paired_difference
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

FILE = "alignment_tax.json"
COLUMNS = ("retention", "n", "base", "tuned", "loss", "95%")


@dataclass(frozen=True, slots=True)
class RetainedScore:
    """A score of both models on the same items.

    Attributes:
        name: ``SUITE.METRIC``.
        base: Mean of the base model.
        tuned: Mean of the trained model.
        loss: The paired loss of the trained model, positive where it is worse: the difference of shares; of a metric of
            which less is better (bits per byte), the difference divided by the base's mean.
    """

    name: str
    base: float
    tuned: float
    loss: Difference


@dataclass(frozen=True, slots=True)
class AlignmentTax:
    """The mean loss over several scores, with its 95% interval; no interval if one of them has none."""

    value: float
    low: float | None
    high: float | None
    scores: int


def alignment_tax(losses: Sequence[Difference]) -> AlignmentTax:
    """Return the mean of independent losses; its standard error is sqrt(sum of their squared errors) / number.

    The name is that of Ouyang et al. (2022, arXiv:2203.02155), for the loss on public tasks after tuning.

    Args:
        losses: At least one.
    """
    value, errors = sum(loss.value for loss in losses) / len(losses), [loss.error for loss in losses]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return AlignmentTax(value, None, None, len(losses))
    width = normal_quantile((1 + CONFIDENCE) / 2) * math.sqrt(sum(error**2 for error in known)) / len(losses)
    return AlignmentTax(value, value - width, value + width, len(losses))


def report_retention(run: RunDir, declared: Sequence[str]) -> None:
    """Print the declared scores of both models and the alignment tax, and write ``eval/alignment_tax.json``.

    Args:
        run: The run.
        declared: ``eval.retention``.

    Raises:
        SftError: A suite has no such metric.
    """
    if not declared:
        return
    records = read_results(run)
    retained = [score for name in declared for score in _scores(run, records, name)]
    if not retained:
        return
    tax = alignment_tax([score.loss for score in retained])
    rows = [
        [score.name, score.loss.n, score.base, score.tuned, score.loss.value,
         interval_text(score.loss.low, score.loss.high)]
        for score in retained
    ]  # fmt: skip
    table(COLUMNS, rows)
    interval = f" (95%: {interval_text(tax.low, tax.high)})" if tax.low is not None else ""
    say(f"tax       {tax.value:.4g}{interval}: mean loss over {counted(tax.scores, 'score')} against the base model")
    content = {"alignment_tax": asdict(tax), "scores": [asdict(score) for score in retained]}
    write_atomic(run.eval / FILE, json.dumps(nan_to_none(content), ensure_ascii=False, indent=1) + "\n")


def _scores(run: RunDir, records: Sequence[SuiteRecord], name: str) -> list[RetainedScore]:
    """Return the scores that a declared name stands for: a metric of a suite, or all of its metrics."""
    suite, _, metric = name.partition(".")
    tuned = [record for record in records if record.suite == suite and not record.is_base]
    pairs = [(record, base) for record in tuned if (base := base_of(record, records)) is not None]
    if not pairs:
        missing = "of the base model: add --compare base" if tuned else "of this suite"
        say(f"tax       {name} is not part of it, without results {missing}")
        return []
    record, base = max(pairs, key=lambda pair: (pair[0].path / "scores.json").stat().st_mtime)
    metrics = list(dict.fromkeys(found for scores in record.scores.values() for found in scores))
    if metric and metric not in metrics:
        known = ", ".join(f"{suite}.{found}" for found in metrics) or "none"
        problem = f"the suite has no such metric of its items (it has {known})"
        raise SftError(where=f"eval.retention: {name}", problem=problem, fix=f"eval.retention=[{suite}]")
    found = [_score(record, base, one) for one in ([metric] if metric else metrics)]
    return [score for score in found if score is not None]


def _score(tuned: SuiteRecord, base: SuiteRecord, metric: str) -> RetainedScore | None:
    """Return one metric of both models over the items that both answered; None without such items."""
    ids = [id for id in tuned.scores if metric in tuned.scores[id] and metric in base.scores.get(id, {})]
    before, after = ([record.scores[id][metric] for id in ids] for record in (base, tuned))
    clusters: Mapping[str, str] = tuned.clusters
    if not ids:
        return None
    means = sum(before) / len(ids), sum(after) / len(ids)
    if smaller_is_better(metric):
        scale = means[0] or 1.0
        first, second = [value / scale for value in before], [value / scale for value in after]
    else:
        first, second = after, before
    loss = paired_difference(first, second, [clusters.get(id, "") for id in ids])
    assert loss is not None, "there are items"
    return RetainedScore(f"{tuned.suite}.{metric}", *means, loss)
