"""Rows by hand, and a filter run over them."""

from collections.abc import Callable, Iterator
from typing import Any

from sft_cli.clean.base import Finding, Found, RowList
from sft_cli.types import Conversation, Message


def talk(*texts: str, where: str = "rows.jsonl:1", source: str = "rows", **rest: Any) -> Conversation:
    """A conversation that begins with the user and alternates."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    return Conversation(turns, where=where, source=source, **rest)


def document(text: str) -> Conversation:
    """A plain document."""
    return Conversation((), where="rows.jsonl:1", source="rows", text=text)


def run(
    find: Callable[[Any, Any], Finding], rows: list[Conversation], config: Any, held_out: frozenset[int] = frozenset()
) -> tuple[list[Found], dict[str, Any]]:
    """The findings of a filter and its report."""
    report: list[Any] = []

    def findings() -> Iterator[Found]:
        report.append((yield from find(RowList(rows, held_out), config)))

    found = list(findings())
    assert [one.row for one in found] == sorted(one.row for one in found)
    return found, report[0]


def reasons(found: list[Found]) -> dict[int, str | None]:
    """Row -> why it is dropped."""
    return {one.row: one.reason for one in found}
