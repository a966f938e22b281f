"""``sft compare``: read the results of runs, compare them, and print the tables or JSON."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sft_cli.compare.changes import ChangedAnswer, changed_answers, changed_config, changed_data
from sft_cli.compare.comparison import MetricComparison, SuiteComparison, compare_metrics, pair_suites
from sft_cli.compare.results import BASE, SuiteRecord, read_results
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.mappings import nan_to_none


@dataclass(frozen=True)
class RunComparison:
    """All that is known about the differences of runs.

    Attributes:
        reference: Name of the run that the others are compared with.
        suites: The common suites.
        metrics: Their metrics.
        config: Keys of the config that differ from the reference, by run.
        data: Names of differences of the rows, by run.
        answers: Items of which one is right and the other wrong, by run.
    """

    reference: str
    suites: Sequence[SuiteComparison]
    metrics: Sequence[MetricComparison]
    config: Mapping[str, Mapping[str, tuple[Any, Any]]]
    data: Mapping[str, Sequence[str]]
    answers: Mapping[str, Sequence[ChangedAnswer]]


def compare_runs(runs: Sequence[RunDir], *, base: bool = False) -> RunComparison:
    """Compare runs with the first one, or all with their base model.

    Args:
        runs: The runs.
        base: Whether the results of the base model are the reference.

    Raises:
        SftError: There is nothing to compare, or the results are of different suites.
    """
    paths = [str(run.path) for run in runs]
    if len(runs) + base < 2:
        fix = f"sft compare {paths[0]} --base, or sft compare {paths[0]} RUN"
        raise SftError(where="sft compare", problem="there is only one run", fix=fix)
    once = {run.path.resolve(): path for run, path in zip(reversed(runs), reversed(paths), strict=True)}
    if len(once) < len(runs):
        fix = " ".join(
            ["sft compare", *map(shlex.quote, reversed(once.values())), *(["--base"] if len(once) == 1 else [])]
        )
        raise SftError(where="sft compare", problem="a run is named twice", fix=fix)
    results = {str(run.path): read_results(run) for run in runs}
    for path, records in results.items():
        if not any(not record.is_base for record in records):
            fix = f"evaluate it first: sft eval {shlex.quote(path)} eval=quick"
            raise SftError(where=path, problem="the run has no results of a suite", fix=fix)
    tuned = {path: [record for record in records if not record.is_base] for path, records in results.items()}
    compared = {BASE: _base_results(results), **tuned} if base else tuned
    suites = pair_suites(compared)
    reference = next(iter(compared))
    others = {str(run.path): run for run in runs if str(run.path) != reference}
    first = None if base else runs[0]
    return RunComparison(
        reference,
        suites,
        compare_metrics(suites),
        {path: changed_config(first, run) for path, run in others.items()} if first else {},
        {path: changed_data(first, run) for path, run in others.items()} if first else {},
        {path: [change for suite in suites for change in changed_answers(suite, path)] for path in others},
    )


def _base_results(results: Mapping[str, Sequence[SuiteRecord]]) -> list[SuiteRecord]:
    """Return the results of the base model.

    Raises:
        SftError: There are none, or the runs have different base models.
    """
    found = [record for records in results.values() for record in records if record.is_base]
    path = next(iter(results))
    if not found:
        fix = f"evaluate it: sft eval {shlex.quote(path)} --compare base eval=quick"
        raise SftError(where="sft compare --base", problem="there are no results of the base model", fix=fix)
    weights = {json.dumps(record.definition["model"], sort_keys=True) for record in found}
    if len(weights) > 1:
        problem, fix = "the runs have different base models", "compare the runs of one base model with --base"
        raise SftError(where="sft compare --base", problem=problem, fix=fix)
    return found


def as_json(comparison: RunComparison) -> str:
    """Return a comparison as JSON."""
    suites = [
        {
            "suite": suite.suite,
            "items": len(suite.items),
            "notes": list(suite.notes),
            "runs": {
                run: {"path": str(record.path), "tokens": record.tokens, "seconds": record.seconds}
                for run, record in suite.records.items()
            },
        }
        for suite in comparison.suites
    ]
    values = {
        "reference": comparison.reference,
        "suites": suites,
        "metrics": [asdict(row) for row in comparison.metrics],
        "config": {run: {key: list(pair) for key, pair in keys.items()} for run, keys in comparison.config.items()},
        "data": {run: list(names) for run, names in comparison.data.items()},
        "answers": {run: [asdict(change) for change in changes] for run, changes in comparison.answers.items()},
    }
    return json.dumps(nan_to_none(values), ensure_ascii=False, indent=1, default=str)
