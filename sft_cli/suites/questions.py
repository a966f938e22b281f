"""A user's own questions: a file of prompts, with or without expected answers."""

import re
from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.schema.data import SourceConfig
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.data.row_errors import format_list
from sft_cli.data.sources.source_rows import BadRow, read_source
from sft_cli.errors import SftError
from sft_cli.suites.scorers import UNSCORED
from sft_cli.types import Row

PROMPT_COLUMNS = ("prompt", "question", "instruction", "messages")
"""Columns that hold a question, in this order."""
SCORED_BY = {"schema": "json_schema", "check": "regex", "label": "classification", "answer": "exact_match"}
"""Column -> the scorer of its rows, in this order; ``check`` is a regular expression."""


def questions_suite(file: Path) -> tuple[str, SuiteConfig]:
    """Return the name and the definition of a suite of questions.

    The columns decide: ``prompt`` (or ``question``, ``instruction``, ``messages``), and for the scorer ``schema``,
    ``check``, ``label`` or ``answer``; without one of these, the answers are only shown.

    Raises:
        SftError: There is no such file, a row has no question in the column of the first row, or only some rows can
            be scored.
    """
    rows = _rows(file)
    first = rows[0]
    column = next((name for name in PROMPT_COLUMNS if name in first.values), None)
    if column is None:
        raise SftError(
            where=first.where,
            problem=f"the row has no question; its columns are {format_list(first.values) or 'none'}",
            fix=f"rename the column of the question to one of: {', '.join(PROMPT_COLUMNS)}",
        )
    if other := next((row for row in rows if column not in row.values), None):
        raise SftError(
            where=other.where,
            problem=f"the row has no {column}, the question of the first row; its columns are"
            f" {format_list(other.values) or 'none'}",
            fix=f"rename the column of its question to {column}, or move the row to a file of its own",
        )
    scored = _scored_column(rows)
    scorer = UNSCORED if scored is None else SCORED_BY[scored]
    options: dict[str, bool | int | float | str | list[str]] = {}
    if scored == "label":
        labels = sorted({str(row.values.get("label", "")) for row in rows})
        if len(labels) > 1:
            options["labels"] = labels
        else:
            scorer = "exact_match"
    return re.sub(r"[^\w-]+", "_", file.name.partition(".")[0]), SuiteConfig(
        path=str(file.absolute()),
        prompt="{{ prompt }}" if column == "messages" else f"{{{{ {column} }}}}",
        messages="{{ messages }}" if column == "messages" else None,
        target=None if scored in (None, "schema") else f"{{{{ {scored} }}}}",
        id="{{ id | default('') }}",
        scorers=[scorer],
        options=options,
    )


def _scored_column(rows: Sequence[Row]) -> str | None:
    """Return the column by which answers are scored; None if no row has one."""
    column = next((name for name in SCORED_BY if any(name in row.values for row in rows)), None)
    missing = [row.where for row in rows if column is not None and column not in row.values]
    if missing:
        raise SftError(
            where=missing[0],
            problem=f"the row has no {column}, by which others are scored"
            f" ({len(missing)} of {len(rows)} rows have none)",
            fix=f"add {column} to these rows, or move them to a file of their own",
        )
    return column


def _rows(file: Path) -> list[Row]:
    """Return the rows of the file; at least one."""
    if not file.is_file():
        raise SftError(
            where=f"--questions {file}",
            problem="it is a directory, not a file" if file.is_dir() else "there is no such file",
            fix='--questions FILE with lines such as {"prompt": "…"}',
        )
    rows = []
    for row in read_source(SourceConfig(path=str(file)), "questions", "train"):
        if isinstance(row, BadRow):
            raise row.error
        rows.append(row)
    if not rows:
        raise SftError(where=str(file), problem="the file holds no rows", fix='write lines such as {"prompt": "…"}')
    return rows
