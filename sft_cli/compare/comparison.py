"""Compare runs metric by metric: estimates on common items, paired differences, and verdicts for all at once."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sft_cli.compare.identity import can_be_rescored, differing_keys, differing_model_settings
from sft_cli.compare.results import BASE, SuiteRecord
from sft_cli.errors import SftError
from sft_cli.scoring.statistics import (
    ALPHA,
    Difference,
    Estimate,
    estimate_mean,
    holm,
    items_needed,
    paired_difference,
)

_SMALLER_IS_BETTER = re.compile(
    r"(^|_)(loss|perplexity|nll|bits_per_byte|brier|error|errors|wer|ter|drop|unparsable|false_refusal|partial|empty|loops"
    r"|leaks|echo|flips)($|_)"
)
MANY_ITEMS = 1_000_000
NO_DIFFERENCE = "cannot tell: no difference"
NO_TEST = "not tested: only its total is stored"


@dataclass(frozen=True)
class Cell:
    """A run's score on a metric, and its difference from the reference.

    Attributes:
        run: Name of the run.
        estimate: The score over the items that all runs have.
        difference: The paired difference; None for the reference, and if the metric is no mean over items.
        p_value: The p-value, adjusted for all differences of the table; None without a difference.
        verdict: ``better``, ``worse``, or ``cannot tell`` with the number of items that would.
    """

    run: str
    estimate: Estimate
    difference: Difference | None = None
    p_value: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one suite.

    Attributes:
        suite: Name of the suite.
        metric: Name of the metric.
        cells: The reference first, then the other runs.
    """

    suite: str
    metric: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class SuiteComparison:
    """The results of all runs on one suite.

    Attributes:
        suite: Name of the suite.
        records: The results by the name of the run; the reference first.
        items: The ids of the items that all have, in the order of the reference.
        notes: What the reader must know: items left out, settings of models that differ.
    """

    suite: str
    records: Mapping[str, SuiteRecord]
    items: Sequence[str]
    notes: Sequence[str]


def smaller_is_better(metric: str) -> bool:
    """Return whether a smaller value of a metric is the better one."""
    return _SMALLER_IS_BETTER.search(metric) is not None


def pair_suites(runs: Mapping[str, Sequence[SuiteRecord]]) -> list[SuiteComparison]:
    """Return the suites that all runs have, with the results that belong together.

    Args:
        runs: The results of each run; the reference first.

    Raises:
        SftError: There is no common suite, or the only results of a suite differ in their definitions.
    """
    reference, *others = runs
    found = []
    for name in dict.fromkeys(record.suite for record in runs[reference]):
        candidates = [record for record in runs[reference] if record.suite == name]
        if not all(any(record.suite == name for record in runs[other]) for other in others):
            continue
        matched = [records for record in candidates if (records := _matching(record, runs, name)) is not None]
        if not matched:
            raise _different(candidates[0], runs, name)
        found += [_comparison(name, records) for records in _largest(matched)]
    if not found:
        suites = "; ".join(f"{run}: {_names(records)}" for run, records in runs.items())
        fix = f"evaluate them on one suite: sft eval {others[0]} eval={_first_name(runs)}"
        raise SftError(where="sft compare", problem=f"the runs have no suite in common ({suites})", fix=fix)
    return found


def compare_metrics(suites: Sequence[SuiteComparison]) -> list[MetricComparison]:
    """Return the comparison of every metric, with verdicts that hold for all of them together (Holm)."""
    rows = [
        MetricComparison(suite.suite, metric, _cells(suite, metric)) for suite in suites for metric in _metrics(suite)
    ]
    cells = [cell for row in rows for cell in row.cells]
    tested = [cell.difference.p_value for cell in cells if cell.difference is not None]
    adjusted = iter(holm(tested))
    return [
        MetricComparison(
            row.suite, row.metric, [_judged(row.metric, cell, adjusted, len(tested)) for cell in row.cells]
        )
        for row in rows
    ]


def _largest(matched: Sequence[Mapping[str, SuiteRecord]]) -> list[Mapping[str, SuiteRecord]]:
    """Return the results that are compared: of those on parts of the same items, the ones with most common items.

    A run that was evaluated on all items and, with ``eval.limit``, on some of them has both; they are one comparison.
    """
    by_items = sorted(
        matched, key=lambda records: -len(set.intersection(*(set(one.scores) for one in records.values())))
    )
    kept = list[Mapping[str, SuiteRecord]]()
    for records in by_items:
        pairs = [[(old[run], records[run]) for run in records] for old in kept]
        if not any(all(not differing_keys(*pair) for pair in runs) for runs in pairs):
            kept.append(records)
    return [records for records in matched if any(records is one for one in kept)]


def _matching(
    record: SuiteRecord, runs: Mapping[str, Sequence[SuiteRecord]], suite: str
) -> dict[str, SuiteRecord] | None:
    """Return the results of every run that belong to those of the reference; None if a run has none."""
    reference, *others = runs
    found = {reference: record}
    for run in others:
        same = [other for other in runs[run] if other.suite == suite and not differing_keys(record, other)]
        if not same:
            return None
        found[run] = max(same, key=lambda other: len(other.scores))
    return found


def _different(record: SuiteRecord, runs: Mapping[str, Sequence[SuiteRecord]], suite: str) -> SftError:
    """Return the error for results of different definitions, with the keys that differ."""
    for run in list(runs)[1:]:
        for other in runs[run]:
            if other.suite == suite and (keys := differing_keys(record, other)):
                shown = "; ".join(f"{key} is {old!r} and {new!r}" for key, (old, new) in list(keys.items())[:3])
                problem = f"the results of {suite} are not of one suite: {shown} ({record.path}, {other.path})"
                fix = f"evaluate both with the same settings: sft eval {run} eval={suite}"
                if can_be_rescored(keys):
                    fix = f"score both in the same manner: sft eval {run} --rescore eval={suite}"
                return SftError(where="sft compare", problem=problem, fix=fix)
    raise AssertionError("only called if a run has no results of the same definition")


def _comparison(suite: str, records: Mapping[str, SuiteRecord]) -> SuiteComparison:
    """Return the results of all runs with the items that all have."""
    reference, *others = records.values()
    items = [name for name in reference.scores if all(name in other.scores for other in others)]
    if not items:
        problem = f"the results of {suite} have no item in common"
        commands = " && ".join(f"sft eval {run} eval={suite}" for run in records if run != BASE)
        raise SftError(where="sft compare", problem=problem, fix=f"evaluate them on the same items: {commands}")
    notes = [
        f"{suite}: {len(items):,} of {len(record.scores):,} items of {run} are compared, which all runs answered"
        for run, record in records.items()
        if len(record.scores) > len(items)
    ]
    for run, record in list(records.items())[1:]:
        if keys := differing_model_settings(reference, record):
            notes.append(f"{suite}: {', '.join(keys)} of {run} and {next(iter(records))} differ")
        versions = [str(one.definition.get("sft_cli")) for one in (reference, record)]
        if versions[0] != versions[1]:
            notes.append(f"{suite}: sft_cli {' and '.join(versions)} scored the answers; --rescore makes them alike")
    return SuiteComparison(suite, records, items, notes)


def _metrics(suite: SuiteComparison) -> list[str]:
    """Return the metrics that every run has, those of items first."""
    records = list(suite.records.values())
    of_items = [{metric for name in suite.items for metric in record.scores[name]} for record in records]
    names = dict.fromkeys((*records[0].totals, *(m for name in suite.items for m in records[0].scores[name])))
    return [
        name
        for name in names
        if all(name in known or name in record.totals for known, record in zip(of_items, records, strict=True))
    ]


def _cells(suite: SuiteComparison, metric: str) -> list[Cell]:
    """Return the scores of all runs on a metric, with their differences from the reference."""
    records = suite.records
    items = [name for name in suite.items if all(metric in record.scores[name] for record in records.values())]
    if not items:
        verdicts = ("", *[NO_TEST] * (len(records) - 1))
        pairs = zip(records.items(), verdicts, strict=True)
        return [Cell(run, _total(record, metric), verdict=verdict) for (run, record), verdict in pairs]
    reference = next(iter(records.values()))
    clusters = [reference.clusters.get(name, "") for name in items]
    first = [reference.scores[name][metric] for name in items]
    cells = []
    for run, record in records.items():
        scores = [record.scores[name][metric] for name in items]
        difference = None if record is reference else paired_difference(first, scores, clusters)
        cells.append(Cell(run, estimate_mean(scores, clusters), difference))
    return cells


def _total(record: SuiteRecord, metric: str) -> Estimate:
    """Return a metric of scores.json."""
    found = record.totals[metric]
    return Estimate(
        found["value"], found.get("low"), found.get("high"), found.get("n") or 0, found.get("clusters") or 0
    )


def _judged(metric: str, cell: Cell, adjusted: Iterator[float], comparisons: int) -> Cell:
    """Return a cell with its adjusted p-value and its verdict."""
    if cell.difference is None:
        return cell
    p_value = next(adjusted)
    if p_value > ALPHA:
        return Cell(cell.run, cell.estimate, cell.difference, p_value, cannot_tell(cell.difference, comparisons))
    is_better = (cell.difference.value > 0) != smaller_is_better(metric)
    return Cell(cell.run, cell.estimate, cell.difference, p_value, "better" if is_better else "worse")


def cannot_tell(difference: Difference, comparisons: int) -> str:
    """Return the verdict for a difference that may be noise, with the number of items that would show it."""
    needed = items_needed(difference, comparisons)
    if needed is None:
        return "cannot tell" if difference.value else NO_DIFFERENCE
    if needed > MANY_ITEMS:
        return f"cannot tell; more than {MANY_ITEMS:,} items would"
    digits = max(0, math.floor(math.log10(needed)) - 1)
    return f"cannot tell; about {math.ceil(needed / 10**digits) * 10**digits:,} items would"


def _names(records: Sequence[SuiteRecord]) -> str:
    return ", ".join(dict.fromkeys(record.suite for record in records)) or "none"


def _first_name(runs: Mapping[str, Sequence[SuiteRecord]]) -> str:
    return next((record.suite for records in runs.values() for record in records), "SUITE")
