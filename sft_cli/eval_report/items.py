"""The items of the page, from the stored results of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.blame.blame import read_blame
from sft_cli.compare.identity import differing_keys
from sft_cli.compare.results import SuiteRecord
from sft_cli.errors import SftError
from sft_cli.suites.rescore import load_answered, stored_definition
from sft_cli.suites.results import SuiteResults

FAILED, REGRESSED, GAINED, RIGHT = "failed", "regressed", "gained", "right"
"""What became of an item: the trained model failed it; also, the base did not; only the base failed it; neither."""


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """An answer of one model.

    Attributes:
        model: base or tuned.
        text: The answer.
        scores: Its scores by metric.
        reason: Why it lost points; empty if it did not.
    """

    model: str
    text: str
    scores: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True)
class PageItem:
    """An item with the answers of the models.

    Attributes:
        suite: Name of the suite.
        id: Its id.
        tags: Its tags.
        prompt: The prompt as the template writes it.
        expected: The expected answers; empty if they are not known.
        answers: The answers of the base, if it was asked, and of the trained model.
        states: What became of it; the first one says it shortest.
        blamed: The training rows nearest to it, as in blame.jsonl.
    """

    suite: str
    id: str
    tags: Mapping[str, str]
    prompt: str
    expected: tuple[str, ...]
    answers: tuple[ModelAnswer, ...]
    states: tuple[str, ...]
    blamed: Sequence[Mapping[str, Any]]


def base_of(tuned: SuiteRecord, records: Sequence[SuiteRecord]) -> SuiteRecord | None:
    """Return the results of the base model on the same items with the same settings."""
    same = (other for other in records if other.is_base and other.suite == tuned.suite)
    return next((other for other in same if not differing_keys(tuned, other)), None)


def suite_items(name: str, tuned: SuiteRecord, base: SuiteRecord | None) -> list[PageItem]:
    """Return the items of a suite that the trained model answered.

    Args:
        name: Name of the suite on the page.
        tuned: Its results of the trained model.
        base: Its results of the base model.
    """
    expected, blamed = _expected(tuned.path), read_blame(SuiteResults(tuned.path).blame)
    items = []
    for id, line in tuned.answers.items():
        if id not in tuned.scores:
            continue
        answers = [_answer("base", base, id)] if base is not None and id in base.scores else []
        answers.append(_answer("tuned", tuned, id))
        items.append(
            PageItem(
                name,
                id,
                {str(tag): str(value) for tag, value in (line.get("tags") or {}).items()},
                str(line.get("prompt", "")),
                expected.get(id, ()),
                tuple(answers),
                _states([not answer.reason for answer in answers]),
                blamed.get(id, ()),
            )
        )
    return items


def row_items(name: str, report: Mapping[str, Any], blame_file: Path) -> list[PageItem]:
    """Return the held-out rows of a report that the trained model answered."""
    blamed = read_blame(blame_file)
    items = []
    for row in report["items"]:
        found = [("base", row["base_answer"], row["base_correct"])] if "base_answer" in row else []
        found.append(("tuned", row["answer"], row["correct"]))
        answers = tuple(
            ModelAnswer(model, text, {"exact_match": float(right)}, "" if right else "not the expected answer")
            for model, text, right in found
        )
        states = _states([right for *_, right in found])
        items.append(
            PageItem(
                name,
                row["where"],
                {"source": row["source"]},
                row["prompt"],
                (row["expected"],),
                answers,
                states,
                blamed.get(row["where"], ()),
            )
        )
    return items


def _answer(model: str, record: SuiteRecord, id: str) -> ModelAnswer:
    text = str(record.answers.get(id, {}).get("answer") or "")
    return ModelAnswer(model, text, record.scores[id], record.reasons[id])


def _states(right: Sequence[bool]) -> tuple[str, ...]:
    """Return what became of an item, from whether each model was right; the trained one is last."""
    before = right[0] if len(right) > 1 else None
    if not right[-1]:
        return (REGRESSED, FAILED) if before else (FAILED,)
    return (GAINED, RIGHT) if before is False else (RIGHT,)


def _expected(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the expected answers of the items; empty if the file of the items has moved or changed."""
    results = SuiteResults(path)
    record = results.read_definition()
    try:
        suite = load_answered(results, record, stored_definition(record, results))
    except SftError:
        return {}
    return {entry.item.id: entry.item.target for entry in suite.items}
