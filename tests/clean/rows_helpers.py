"""Rows written by hand, and functions that collect the findings of a filter."""

from collections.abc import Iterator, Sequence
from typing import Any

from sft_cli.clean.base import Finding, Findings
from sft_cli.types import Conversation, Message
from tests.clean.helpers import InMemoryRows


def chat(*contents: str, where: str = "rows.jsonl:1", system: str | None = None, **more: Any) -> Conversation:
    """Return a conversation with alternating turns of user and assistant."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[place % 2], content) for place, content in enumerate(contents))
    head = (Message("system", system),) if system is not None else ()
    return Conversation(head + turns, where, "mine", **more)


def numbered_rows(
    contents: Sequence[Sequence[str] | str], held_out: Sequence[int] = (), priorities: Sequence[int] = ()
):
    """Return rows ``rows.jsonl:1``, ``:2`` and so on; a single text is a prompt with the answer "ok"."""
    output = [(content, "ok") if isinstance(content, str) else content for content in contents]
    rows = [chat(*turns, where=f"rows.jsonl:{number}") for number, turns in enumerate(output, start=1)]
    return InMemoryRows(rows, frozenset(held_out), tuple(priorities))


class SmallBatches(InMemoryRows):
    """Like ``InMemoryRows``, in batches of two."""

    def map(self, function: Any, argument: Any) -> Iterator[tuple[int, Sequence[Any]]]:
        for start in range(0, len(self), 2):
            yield start, function(self.conversations[start : start + 2], argument)


def collect(finding: Findings) -> tuple[list[Finding], dict[str, Any] | None]:
    """Return all findings of a filter, after checking their order, and its report."""
    result = []
    while True:
        try:
            result.append(next(finding))
        except StopIteration as end:
            assert [one.row for one in result] == sorted({one.row for one in result})
            return result, end.value


def dropped_rows(finding: Findings) -> list[int]:
    """Return the rows that a filter drops."""
    return [one.row for one in collect(finding)[0] if one.reason is not None]


def rows_without(rows: InMemoryRows, dropped: Sequence[int]) -> InMemoryRows:
    """Return the remaining rows, with their split and priority unchanged."""
    left = [index for index in range(len(rows)) if index not in set(dropped)]
    held_out = frozenset(place for place, index in enumerate(left) if index in rows.held_out_rows)
    priorities = tuple(int(rows.priority[index]) for index in left)
    return InMemoryRows([rows.conversations[index] for index in left], held_out, priorities)
