"""``sft eval RUN --blame``: write and print the training rows that are nearest to each failed item."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_cli.blame.failures import FailedSuite, Failure, failed_suites
from sft_cli.blame.nearest import NearRow, TrainingIndex
from sft_cli.blame.training_turns import run_turns
from sft_cli.config.schema.config import Config
from sft_cli.console import counted, say, table
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.eval.select_rows import run_data, with_run_tokenizer
from sft_cli.report.ledger_view import find_lines
from sft_cli.run_dir import RunDir
from sft_cli.suites.results import json_line
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.text import excerpt

MAX_SHOWN = 8
"""Failed items of a suite in the printed table."""
MAX_WHERE = 50
"""Locations of equal rows that are written."""
MAX_CHARACTERS = 60
"""Characters of a text in the table."""
Ledger = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class BlamedItem:
    """A failed item with its nearest training rows."""

    failure: Failure
    rows: tuple[NearRow, ...]

    @property
    def contradictions(self) -> int:
        """Number of training rows that contradict it, equal ones counted each."""
        return sum(len(row.where) for row in self.rows if row.relation == "contradicts")


def blame_run(run: RunDir, trained: Config, suites: Collection[str], data_dir: str | None) -> None:
    """Write ``blame.jsonl`` of every stored result of the trained model, and print the worst items.

    Args:
        run: The run.
        trained: The config of the run.
        suites: Names of suites; empty: all that are stored.
        data_dir: ``eval.data_dir``.

    Raises:
        SftError: There are no scored answers, or the training data no longer exist.
    """
    found = list(failed_suites(run, suites, data_dir))
    if not found:
        raise SftError(
            where=str(run.eval),
            problem="there are no scored answers whose failures could be traced to training rows",
            fix=f"evaluate first: sft eval {run.path} eval=SUITE --blame",
        )
    prepared = run_data(run, with_run_tokenizer(run.tokenizer, trained))
    index = TrainingIndex(run_turns(run, prepared))
    for suite in found:
        blamed = [BlamedItem(failure, tuple(index.nearest(failure))) for failure in suite.failures]
        ledger = _ledger_lines(prepared, blamed)
        write_atomic(suite.file, "".join(json_line(_line(item, ledger)) for item in blamed))
        _show(suite, blamed)


def _ledger_lines(prepared: PreparedData, blamed: Sequence[BlamedItem]) -> Ledger:
    """Return the lines of the ledger of all named rows."""
    rows = (row for item in blamed for row in item.rows)
    keys = {(row.turn.source, where) for row in rows for where in row.where[:MAX_WHERE]}
    return find_lines(prepared.directory / "ledger.jsonl", keys)


def _line(item: BlamedItem, ledger: Ledger) -> dict[str, Any]:
    """Return an item as a line of blame.jsonl."""
    failure = item.failure
    return {
        "id": failure.id,
        "question": failure.question,
        "answer": failure.answer,
        "reason": failure.reason,
        "rows": [_row(row, ledger) for row in item.rows],
    }


def _row(row: NearRow, ledger: Ledger) -> dict[str, Any]:
    """Return a training row as a part of a line of blame.jsonl."""
    lines = [ledger.get((row.turn.source, where)) for where in row.where[:MAX_WHERE]]
    return {
        **asdict(row.turn),
        "where": list(row.where[:MAX_WHERE]),
        "count": len(row.where),
        "relation": row.relation,
        "similarity": round(row.similarity, 4),
        "answer_similarity": round(row.answer_similarity, 4),
        "ledger": [dict(line) for line in lines if line is not None],
    }


def _show(suite: FailedSuite, blamed: Sequence[BlamedItem]) -> None:
    """Print how many items failed and why, and the rows of the worst items: those with most contradicting rows."""
    contradicted = [item for item in blamed if item.contradictions]
    alone = sum(not item.rows for item in blamed)
    say(
        f"blame     {suite.name}: {counted(len(blamed), 'item')} of {suite.items:,} failed;"
        f" training rows contradict {len(contradicted):,}, {alone:,} have no similar training row"
    )
    worst = sorted(blamed, key=lambda item: -item.contradictions)[:MAX_SHOWN]
    rows = [
        (
            excerpt(item.failure.question, MAX_CHARACTERS, tail=True),
            excerpt(item.failure.answer, MAX_CHARACTERS, tail=True),
            row.relation,
            _places(row),
            excerpt(row.turn.answer, MAX_CHARACTERS, tail=True),
        )
        for item in worst
        for row in item.rows[:1]
    ]
    if rows:
        table(("question", "answer", "nearest row", "where", "its answer"), rows)
    say(f"results   {suite.file}")


def _places(row: NearRow) -> str:
    """Return the location of a row, and how many others are equal."""
    more = f" and {len(row.where) - 1:,} equal" if len(row.where) > 1 else ""
    return f"{Path(row.turn.where).name}{more}"


def read_blame(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each item of a blame.jsonl, by id; empty without the file."""
    if not file.is_file():
        return {}
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["rows"] for line in lines}
