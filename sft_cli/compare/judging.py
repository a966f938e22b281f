"""Judge the answers of a suite that are on disk: against those of a baseline, or by a rubric."""

import itertools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sft_cli.compare.results import SuiteRecord, read_results
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.scoring.judge.endpoint import endpoint
from sft_cli.scoring.judge.mt_bench import read_references
from sft_cli.scoring.judge.pairwise import judge_pairs
from sft_cli.scoring.judge.ratings import Rubric, judge_ratings, rate_by_references
from sft_cli.scoring.judge.results import JudgeResult
from sft_cli.scoring.judge.session import JudgeSession
from sft_cli.scoring.judge.settings import JudgeLimits, JudgeSettings
from sft_cli.scoring.types import Answer, Item
from sft_cli.suites.items import second_id
from sft_cli.suites.rescore import load_answered, stored_definition
from sft_cli.suites.results import SuiteResults
from sft_cli.suites.turns import with_own_answers
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.similar import closest_name
from sft_cli.utils.text import json_or_none

BASE_LABEL = "base"
"""Word for the base model in place of a run."""


def find_answers(run: RunDir, suite: str, *, base: bool = False) -> SuiteRecord:
    """Return the results of a run on a suite whose answers were generated.

    Args:
        run: The run.
        suite: Name of the suite.
        base: Whether the results of its base model are meant.

    Raises:
        SftError: There are none, or several.
    """
    records = [record for record in read_results(run) if record.is_base == base]
    found = [record for record in records if record.suite == suite]
    if not found:
        names = sorted({record.suite for record in records})
        near = closest_name(suite, names)
        known = f"; there are results of {', '.join(names)}" if names else ""
        evaluate = f"sft eval {run.path} eval={suite}" + (" --compare base" if base else "")
        raise SftError(
            where=f"--suite {suite}",
            problem=f"{run.path} has no {'base ' if base else ''}results of {suite}{known}",
            fix=f"did you mean --suite {near}?\n{evaluate}" if near else evaluate,
        )
    if len(found) > 1:
        directories = ", ".join(record.path.name for record in found)
        raise SftError(
            where=f"--suite {suite}",
            problem=f"{run.path} has results of {suite} with different settings: {directories}",
            fix=f"keep one of them, as in: mv {shlex.quote(str(found[0].path))} {shlex.quote(str(run.path))}",
        )
    if any("choices" in line for line in found[0].answers.values()):
        raise SftError(
            where=f"--suite {suite}",
            problem="the suite compares likelihoods; nothing was generated",
            fix=f"evaluate a suite of kind generate: sft eval {run.path} eval=SUITE",
        )
    return found[0]


def read_rubric(file: Path | None) -> Rubric:
    """Return the rubric of a text file; the general criteria without one."""
    if file is None:
        return Rubric()
    try:
        return Rubric(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SftError(
            where=f"--rubric {file}",
            problem=f"cannot read it: {error}",
            fix="--rubric FILE in UTF-8, or remove --rubric",
        ) from error


def read_labels(file: Path | None) -> dict[str, str | float] | None:
    """Return the labels of people by the ids of items; None without a file.

    Raises:
        SftError: The file cannot be read, or a line has no id or label.
    """
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SftError(
            where=f"--labels {file}",
            problem=f"cannot read it: {error}",
            fix="--labels FILE in UTF-8, or remove --labels",
        ) from error
    labels: dict[str, str | float] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = json_or_none(line)
            if not isinstance(row, dict) or "id" not in row or not isinstance(row.get("label"), str | int | float):
                fix = 'write lines such as {"id": "7", "label": "win"}'
                raise SftError(where=f"{file}:{number}", problem="the line has no id and label", fix=fix)
            labels[str(row["id"])] = row["label"]
    return labels


def judge_answers(
    record: SuiteRecord,
    baseline: SuiteRecord | None,
    settings: JudgeSettings,
    *,
    rubric: Path | None,
    labels: Path | None,
    references: Path | None = None,
    report: Callable[[str], None],
) -> tuple[JudgeResult, Path]:
    """Judge the answers of a suite, and write verdicts, audit and every reply below its results.

    Args:
        record: The results with the answers.
        baseline: Results of the model to compare with; None rates the answers by the rubric.
        settings: The judge.
        rubric: Text file that states what counts; None takes the general criteria.
        labels: JSONL file with labels of people.
        references: The separate file of references of MT-Bench; the ratings by both are given.
        report: Called with a line of progress after each request.

    Returns:
        The result, and the directory that it was written to.
    """
    names = [name for name in record.answers if baseline is None or name in baseline.answers]
    if not names:
        raise SftError(
            where=str(record.path),
            problem="no item was answered by both models",
            fix=f"evaluate both on the same items: sft eval RUN eval={record.suite}",
        )
    scale, known = read_rubric(rubric), read_labels(labels)
    if references is not None and baseline is not None:
        problem = "references serve ratings, but --against compares"
        raise SftError(where="--references", problem=problem, fix="remove --references or --against")
    others = None if references is None else _item_references(read_references(references))
    complete = endpoint(settings)
    directory = record.path / f"judge-{_digest(baseline, settings, scale)}"
    directory.mkdir(exist_ok=True)
    items, answers = judged_items(record, names), [_answer(record, name) for name in names]
    numbers = itertools.count(1)
    with JudgeSession(
        complete, settings, directory / "replies.jsonl", lambda: report(f"judge: {next(numbers):,} verdicts")
    ) as session:
        if baseline is None:
            result = judge_ratings(session, items, answers, scale, limits=JudgeLimits(), labels=known)
            if others is not None:
                by_both = rate_by_references(session, items, answers, others, scale)
                result = replace(result, measured={**result.measured, **by_both}, usage=session.usage)
        else:
            texts = [_answer(baseline, name).text for name in names]
            result = judge_pairs(
                session, items, answers, texts, limits=JudgeLimits(), labels=known, criteria=scale.text
            )
    _write(directory, names, result, settings, scale, baseline)
    return result, directory


def _digest(baseline: SuiteRecord | None, settings: JudgeSettings, rubric: Rubric) -> str:
    """Return the digest of what the verdicts depend on."""
    against = None if baseline is None else [str(baseline.path.name), baseline.definition.get("model")]
    return json_digest([settings.model, settings.base_url, settings.temperature, against, asdict(rubric)])[:8]


def judged_items(record: SuiteRecord, names: Sequence[str]) -> list[Item]:
    """Return the items with the prompts that the model received.

    Those of a suite with two turns are read from its file, with the model's own answers and the references.

    Raises:
        SftError: The file of such a suite is gone or has other items.
    """
    definition: Mapping[str, Any] = record.definition.get("definition", {})
    if definition.get("second_prompt") is None:
        return [
            Item(
                name,
                ({"role": "user", "content": str(record.answers[name].get("prompt", ""))},),
                cluster=record.clusters.get(name, ""),
            )
            for name in names
        ]
    results, values = SuiteResults(record.path), dict(record.definition)
    suite = load_answered(results, values, stored_definition(values, results))
    answers = {(name, 0): _answer(record, name).text for name in record.answers}
    entries = {entry.item.id: (entry, 0) for entry in suite.items}
    return [entry.item for entry, _ in with_own_answers([entries[name] for name in names], answers)]


def _item_references(references: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the references of two turns by the ids of the items."""
    return {
        name: text for id, turns in references.items() for name, text in zip((id, second_id(id)), turns, strict=True)
    }


def _answer(record: SuiteRecord, name: str) -> Answer:
    """Return the first answer to an item."""
    line = record.answers[name]
    return Answer(str(line["answer"]), str(line.get("reasoning", "")), bool(line.get("stopped", True)))


def _write(
    directory: Path,
    names: Sequence[str],
    result: JudgeResult,
    settings: JudgeSettings,
    rubric: Rubric,
    baseline: SuiteRecord | None,
) -> None:
    """Write the verdicts and the record of the judge."""
    lines: list[dict[str, Any]] = [
        {"id": name, "scores": dict(verdict.scores), "label": verdict.label, "reason": verdict.reason}
        for name, verdict in zip(names, result.verdicts, strict=True)
    ]
    write_atomic(directory / "verdicts.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    values = {
        "judge": asdict(settings),
        "rubric": asdict(rubric),
        "against": None if baseline is None else str(baseline.path),
        **result.as_record(),
    }
    write_atomic(directory / "judge.json", json.dumps(values, ensure_ascii=False, indent=1) + "\n")
