"""The overlap of suites with the training rows, and the scores of the items without it."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli.blame.failures import question_of
from sft_cli.blame.overlap import FEWEST_WORDS, LONG_NGRAM, SHORT_NGRAM, compared, largest_shares
from sft_cli.blame.training_turns import TrainingTurn, run_turns
from sft_cli.compare.results import SuiteRecord, read_results
from sft_cli.console import say, table
from sft_cli.errors import SftError
from sft_cli.eval.select_rows import stored_run_data
from sft_cli.run_dir import RunDir
from sft_cli.scoring.statistics import estimate_mean, interval_text
from sft_cli.suites.rescore import load_answered, stored_definition
from sft_cli.suites.results import SuiteResults, json_line
from sft_cli.suites.texts import text_metrics
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none

FILE = "contamination.jsonl"
"""The overlapping items of a suite; the first line says with which data, by which rule."""
RULE = {"long_ngram": LONG_NGRAM, "short_ngram": SHORT_NGRAM, "fewest_words": FEWEST_WORDS, "version": 1}
COLUMNS = ("suite", "metric", "overlapping items", "score", "without them", "95%")


def measure_overlap(run: RunDir, data_dir: str | None, suites: Collection[str]) -> None:
    """Write the overlap of every suite with the training rows to its scores.json, and print the table.

    A suite whose items cannot be found is left out, and so are all if the training data no longer exist.

    Args:
        run: The run.
        data_dir: ``eval.data_dir``.
        suites: Names of the suites to print; empty: all.
    """
    records = [record for record in read_results(run) if not _is_own_rows(record)]
    prepared = stored_run_data(run) if records else None
    if prepared is None:
        if records:
            say("overlap   of suites and training rows: not measured, since the training data no longer exist")
        return
    head = {"data": prepared.manifest["content"], "rule": RULE}
    turns: Sequence[TrainingTurn] = ()
    shown = list[tuple[SuiteRecord, dict[str, Any]]]()
    for record in records:
        overlapping = _read(record.path / FILE, head)
        if overlapping is None:
            questions = _questions(record, data_dir)
            if questions is None:
                continue
            turns = turns or list(run_turns(run, prepared))
            overlapping = largest_shares(questions, turns)
            _write(record.path / FILE, {**head, "compared": compared(questions)}, overlapping)
        summary = _summary(record, overlapping)
        _add_to_scores(record.path / "scores.json", summary)
        if not record.is_base and (not suites or record.suite in suites):
            shown.append((record, summary))
    times = Counter(record.suite for record, _ in shown)
    rows = [
        # Results with other settings, or of a part of the items, have the same suite.
        row
        for record, summary in shown
        for row in _table_rows(record.suite if times[record.suite] == 1 else record.path.name, record, summary)
    ]
    if rows:
        say("overlap   items whose question stands in a training row, and the score without them")
        table(COLUMNS, rows)


def _questions(record: SuiteRecord, data_dir: str | None) -> dict[str, str] | None:
    """Return the question of each item; None if the items are not found."""
    results = SuiteResults(record.path)
    definition = results.read_definition()
    try:
        suite = load_answered(results, definition, stored_definition(definition, results), data_dir)
    except SftError as error:
        say(f"overlap   {record.suite}: not measured: {error.problem}")
        return None
    lines = record.answers
    return {entry.item.id: question_of(entry, lines[entry.item.id]) for entry in suite.items if entry.item.id in lines}


def _read(file: Path, head: Mapping[str, Any]) -> dict[str, tuple[float, str]] | None:
    """Return the stored overlap, if it is with the same data by the same rule."""
    if not file.is_file():
        return None
    first, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    if any(first.get(key) != value for key, value in head.items()):
        return None
    return {line["id"]: (line["share"], line["where"]) for line in lines}


def _write(file: Path, head: Mapping[str, Any], overlapping: Mapping[str, tuple[float, str]]) -> None:
    lines = [{"id": id, "share": round(share, 4), "where": where} for id, (share, where) in overlapping.items()]
    write_atomic(file, "".join(map(json_line, [head, *lines])))


def _summary(record: SuiteRecord, overlapping: Mapping[str, tuple[float, str]]) -> dict[str, Any]:
    """Return the entry of scores.json: the numbers of items, and each metric over the items without overlap."""
    clean = [id for id in record.scores if id not in overlapping]
    metrics = dict.fromkeys(metric for id in record.scores for metric in record.scores[id])
    scores: dict[str, Any] = text_metrics([record.answers[id] for id in clean]) if _is_text(record) else {}
    for metric in metrics if not scores else ():
        ids = [id for id in clean if metric in record.scores[id]]
        values = [record.scores[id][metric] for id in ids]
        scores[metric] = asdict(estimate_mean(values, [record.clusters.get(id, "") for id in ids]))
    return {
        "items": len(record.scores),
        "overlapping": len(record.scores) - len(clean),
        "rule": dict(RULE),
        "clean": scores,
    }


def _is_own_rows(record: SuiteRecord) -> bool:
    """Return whether the items are rows of the run itself."""
    return record.definition.get("definition", {}).get("kind") == "memorisation"


def _is_text(record: SuiteRecord) -> bool:
    """Return whether the items are parts of a text, whose figures are no means."""
    return any("nats" in line for line in record.answers.values())


def _add_to_scores(file: Path, summary: Mapping[str, Any]) -> None:
    """Add the overlap to scores.json."""
    scores = json.loads(file.read_text(encoding="utf-8")) | {"contamination": nan_to_none(dict(summary))}
    write_atomic(file, json.dumps(scores, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _table_rows(name: str, record: SuiteRecord, summary: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of the table of one suite under this name."""
    share = f"{summary['overlapping']:,} of {summary['items']:,}"
    return [
        [name, metric, share, (record.totals.get(metric) or {}).get("value"), clean["value"],
         interval_text(clean["low"], clean["high"])]
        for metric, clean in summary["clean"].items()
    ]  # fmt: skip
