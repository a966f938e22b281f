"""The rows of a step for messages: the longest first, each with its file, line and number of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from sft_cli.data.prepared import Split

MAX_NAMED_ROWS = 3
"""Most rows that a message names."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """An example of a step: its row, as ``file:line``, and its number of tokens."""

    where: str
    tokens: int


def list_step_rows(split: Split, examples: Sequence[int]) -> list[StepRow]:
    """Return the rows of these examples, the longest first."""
    rows = [StepRow(split.where(index), int(split.lengths[index])) for index in examples]
    return sorted(rows, key=lambda row: -row.tokens)


def describe_rows(rows: Sequence[StepRow]) -> str:
    """Return ``rows.jsonl:7 (243 tokens), rows.jsonl:2 (200 tokens), rows.jsonl:9 (81 tokens) and 13 more``."""
    more = f" and {len(rows) - MAX_NAMED_ROWS} more" if len(rows) > MAX_NAMED_ROWS else ""
    return ", ".join(f"{row.where} ({row.tokens:,} tokens)" for row in rows[:MAX_NAMED_ROWS]) + more
