"""The rows of a step as a person is told of them: the longest first, each with its place and its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from sft_cli.data.prepared import Split

NAMED = 3
"""Rows that a sentence names."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """An example of a step: the row it came from, and its tokens."""

    where: str
    tokens: int


def rows_of(split: Split, examples: Sequence[int]) -> list[StepRow]:
    """The rows of these examples, the longest first."""
    rows = [StepRow(split.where(index), int(split.lengths[index])) for index in examples]
    return sorted(rows, key=lambda row: -row.tokens)


def named(rows: Sequence[StepRow]) -> str:
    """``rows.jsonl:7 (243 tokens), rows.jsonl:2 (200 tokens), rows.jsonl:9 (81 tokens) and 13 more``."""
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(f"{row.where} ({row.tokens:,} tokens)" for row in rows[:NAMED]) + more
