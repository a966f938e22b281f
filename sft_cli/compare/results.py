"""Read the results of suites in run directories."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.scoring.types import Verdict
from sft_cli.suites.scores import item_scores

BASE = "base"
"""Label of the base model's results in ``suite.json``."""
Scores = dict[str, dict[str, float]]
"""The scores of an item, reduced over its samples, by metric, by the id of the item."""


@dataclass(frozen=True)
class SuiteRecord:
    """The results of one suite and model.

    Attributes:
        path: The directory.
        definition: Content of suite.json.
        totals: Metrics of scores.json.
        scores: The scores of each item.
        clusters: The cluster of each item.
        answers: The first answer to each item.
        reasons: Why the first answer lost points.
        tokens: Number of generated tokens over all answers.
        seconds: Time that the answers took; None if it was not recorded.
    """

    path: Path
    definition: Mapping[str, Any]
    totals: Mapping[str, Mapping[str, Any]]
    scores: Scores
    clusters: Mapping[str, str]
    answers: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]
    tokens: int
    seconds: float | None

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.definition["suite"])

    @property
    def is_base(self) -> bool:
        """Whether the base model was evaluated, not the trained one."""
        return self.definition.get("model", {}).get("label") == BASE


def read_results(run: RunDir) -> list[SuiteRecord]:
    """Return the results of the suites of a run, by the names of their directories.

    Results without verdicts are left out: nothing is scored yet.

    Raises:
        SftError: A file is damaged.
    """
    files = sorted(run.eval.glob("*/suite.json"))
    return [_read(file.parent) for file in files if (file.parent / "verdicts.jsonl").is_file()]


def _read(path: Path) -> SuiteRecord:
    """Return the results in a directory."""
    definition = _json(path / "suite.json")
    lines = {(str(line["id"]), line["sample"]): line for line in _lines(path / "answers.jsonl")}
    answers: dict[str, Mapping[str, Any]] = {}
    for (name, _), line in lines.items():
        answers.setdefault(name, line)
    scored: dict[str, list[tuple[Mapping[str, Any], Verdict]]] = {}
    for line in _lines(path / "verdicts.jsonl"):
        scores = {metric: float(value) for metric, value in line["scores"].items() if value is not None}
        verdict = Verdict(scores, line.get("reason") or "", line.get("extracted"))
        name = str(line["id"])
        scored.setdefault(name, []).append((lines.get((name, line["sample"]), {"answer": ""}), verdict))
    reduce = definition.get("definition", {}).get("reduce") or ["mean"]
    seconds = [line["seconds"] for line in lines.values() if line.get("seconds") is not None]
    return SuiteRecord(
        path,
        definition,
        _json(path / "scores.json").get("metrics", {}) if (path / "scores.json").is_file() else {},
        {name: item_scores(reduce, pairs) for name, pairs in scored.items()},
        {name: str(line.get("cluster") or "") for name, line in answers.items()},
        answers,
        {name: pairs[0][1].reason for name, pairs in scored.items()},
        sum(line.get("num_tokens") or 0 for line in lines.values()),
        sum(seconds) if seconds else None,
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, without a last one that is still being written; none if there is no file."""
    if not file.is_file():
        return []
    content = file.read_text(encoding="utf-8")
    found = []
    for number, line in enumerate(content[: content.rfind("\n") + 1].splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise _damaged(file, f"{file}:{number}") from error
    return found


def _json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(file)) from error


def _damaged(file: Path, where: str) -> SftError:
    fix = f"score the answers again (sft eval RUN --rescore), or remove {file.parent} and evaluate again"
    return SftError(where=where, problem="this is not JSON", fix=fix)
