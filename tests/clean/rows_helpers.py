"""Rows written by hand, and a filter run to its end."""

from collections.abc import Iterator, Sequence
from typing import Any

from sft_cli.clean.base import Finding, Findings
from sft_cli.types import Conversation, Message
from tests.clean.helpers import InMemoryRows


def chat(*contents: str, where: str = "rows.jsonl:1", system: str | None = None, **more: Any) -> Conversation:
    """A user and an assistant in turn."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[place % 2], content) for place, content in enumerate(contents))
    head = (Message("system", system),) if system is not None else ()
    return Conversation(head + turns, where, "mine", **more)


def numbered_rows(
    contents: Sequence[Sequence[str] | str], held_out: Sequence[int] = (), priorities: Sequence[int] = ()
):
    """Rows ``rows.jsonl:1`` and on; a text alone is a prompt that is answered with "ok"."""
    output = [(content, "ok") if isinstance(content, str) else content for content in contents]
    rows = [chat(*turns, where=f"rows.jsonl:{number}") for number, turns in enumerate(output, start=1)]
    return InMemoryRows(rows, frozenset(held_out), tuple(priorities))


class SmallBatches(InMemoryRows):
    """As ``InMemoryRows``, in batches of two."""

    def map(self, function: Any, argument: Any) -> Iterator[tuple[int, Sequence[Any]]]:
        for start in range(0, len(self), 2):
            yield start, function(self.conversations[start : start + 2], argument)


def collect(finding: Findings) -> tuple[list[Finding], dict[str, Any] | None]:
    """Everything a filter finds, in the order it must have, and its report."""
    result = []
    while True:
        try:
            result.append(next(finding))
        except StopIteration as end:
            assert [one.row for one in result] == sorted({one.row for one in result})
            return result, end.value


def dropped_rows(finding: Findings) -> list[int]:
    """The rows a filter drops."""
    return [one.row for one in collect(finding)[0] if one.reason is not None]


def rows_without(rows: InMemoryRows, gone: Sequence[int]) -> InMemoryRows:
    """The rows that are left, held out and ranked as before."""
    left = [index for index in range(len(rows)) if index not in set(gone)]
    held_out = frozenset(place for place, index in enumerate(left) if index in rows.held_out_rows)
    priorities = tuple(int(rows.priority[index]) for index in left)
    return InMemoryRows([rows.conversations[index] for index in left], held_out, priorities)
