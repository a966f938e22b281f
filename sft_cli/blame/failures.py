"""The failed items of a run's stored results: of its suites, and of held-out rows."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.config.schema.suites import SuiteKind
from sft_cli.run_dir import RunDir
from sft_cli.scoring.normalize import is_exact_match
from sft_cli.scoring.types import Answer
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.rescore import load_answered, stored_definition
from sft_cli.suites.results import SuiteResults
from sft_cli.suites.scorers import suite_scorer

HELDOUT = "heldout"
"""Kind of the suite of held-out rows, whose results are a single file."""
ROW_REPORTS = (HELDOUT, "other rows")
"""Values of ``suite`` in the reports on rows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that the trained model failed.

    Attributes:
        id: Its id; of a held-out row, its file and line.
        question: The text to compare with training rows.
        answer: The model's answer.
        reason: Why it failed.
        is_right: Return whether a text would be a right answer to it.
    """

    id: str
    question: str
    answer: str
    reason: str
    is_right: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class FailedSuite:
    """The failed items of one suite.

    Attributes:
        name: Name of the suite, or of the report on rows.
        file: The file to write the blamed rows to.
        items: Number of answered items.
        failures: The failed ones.
    """

    name: str
    file: Path
    items: int
    failures: tuple[Failure, ...]


def failed_suites(run: RunDir, suites: Collection[str], data_dir: str | None) -> Iterator[FailedSuite]:
    """Yield the failed items of every scored result of the trained model.

    Args:
        run: The run.
        suites: Names of suites; ``heldout`` stands for all reports on rows. Empty: all.
        data_dir: ``eval.data_dir``.

    Raises:
        SftError: The items of a suite are not found, or they are other ones.
    """
    if not suites or HELDOUT in suites:
        for file in sorted(run.eval.glob("*.json")):
            if (found := _failed_rows(file)) is not None:
                yield found
    for file in sorted(run.eval.glob("*/suite.json")):
        results = SuiteResults(file.parent)
        record = results.read_definition()
        if record["model"]["label"] != "tuned" or (suites and record["suite"] not in suites):
            continue
        if results.verdicts.is_file():
            suite = load_answered(results, record, stored_definition(record, results), data_dir)
            yield _failed_items(results, suite)


def _failed_rows(file: Path) -> FailedSuite | None:
    """Return the failed rows of a report on rows; None if the file is another one, or nothing was answered."""
    report = json.loads(file.read_text(encoding="utf-8"))
    if report.get("suite") not in ROW_REPORTS or not report.get("items"):
        return None
    failures = [
        Failure(
            item["where"],
            item["prompt"],
            item["answer"],
            f"expected {item['expected']!r}",
            lambda text, expected=item["expected"]: is_exact_match(text, expected),
        )
        for item in report["items"]
        if not item["correct"]
    ]
    return FailedSuite(file.stem, file.with_suffix(".blame.jsonl"), len(report["items"]), tuple(failures))


def _failed_items(results: SuiteResults, suite: LoadedSuite) -> FailedSuite:
    """Return the failed items of a suite; of several answers to an item, the first that lost points."""
    items = {entry.item.id: entry for entry in suite.items}
    answers = results.read_answers()
    verdicts = [json.loads(line) for line in results.verdicts.read_text(encoding="utf-8").splitlines()]
    failures: dict[str, Failure] = {}
    is_right = _judge(suite)
    for record, verdict in zip(answers, verdicts, strict=True):
        if verdict["reason"] and record["id"] not in failures:
            entry = items[record["id"]]
            failures[record["id"]] = Failure(
                record["id"],
                question_of(entry, record),
                record["answer"],
                verdict["reason"],
                lambda text, entry=entry: is_right(entry, text),
            )
    return FailedSuite(results.path.name, results.blame, len(items), tuple(failures.values()))


def _judge(suite: LoadedSuite) -> Callable[[SuiteItem, str], bool]:
    """Return a function that scores a text as the answer to an item."""
    if suite.config.kind is SuiteKind.choices:
        return lambda entry, text: is_exact_match(text, entry.choices[entry.gold])
    scorer = suite_scorer(suite.name, suite.config)
    return lambda entry, text: not scorer.score(entry.item, Answer(text)).reason


def question_of(entry: SuiteItem, record: Mapping[str, Any]) -> str:
    """Return the last message of an item, without solved examples before it; else the whole prompt."""
    content = entry.item.messages[-1]["content"]
    return content if isinstance(content, str) else str(record["prompt"])
