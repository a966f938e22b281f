"""Rows written by hand, and a function that runs a filter over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean import pii
from sft_cli.clean.base import BATCH, Finding, Findings
from sft_cli.config.schema.clean import PiiConfig
from sft_cli.types import Conversation, Message


@dataclass(frozen=True)
class InMemoryRows:
    """Rows in memory."""

    conversations: Sequence[Conversation]
    held_out_rows: frozenset[int] = frozenset()
    priorities: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Conversation:
        return self.conversations[index]

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Return ``(rows,)``: whether a row is held out."""
        return np.array([index in self.held_out_rows for index in range(len(self))], dtype=np.bool_)

    @property
    def priority(self) -> NDArray[np.int64]:
        """Return ``(rows,)``: priority of the row's source; 0 unless given."""
        return np.array(self.priorities or [0] * len(self), dtype=np.int64)

    def map(
        self, function: Callable[[Sequence[Conversation], Any], Sequence[Any]], argument: Any
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Apply ``function`` to all rows in batches."""
        for start in range(0, len(self), BATCH):
            yield start, function(self.conversations[start : start + BATCH], argument)


def chat(*texts: str, where: str = "rows.jsonl:1", source: str = "rows", **rest: Any) -> Conversation:
    """Return a conversation of alternating turns that begins with the user."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    return Conversation(turns, where=where, source=source, **rest)


def document(text: str) -> Conversation:
    """Return a plain document."""
    return Conversation((), where="rows.jsonl:1", source="rows", text=text)


def run_filter(
    find: Callable[[Any, Any], Findings], rows: list[Conversation], config: Any, held_out: frozenset[int] = frozenset()
) -> tuple[list[Finding], dict[str, Any]]:
    """Return the findings of a filter and its report."""
    report: list[Any] = []

    def findings() -> Iterator[Finding]:
        report.append((yield from find(InMemoryRows(rows, held_out), config)))

    result = list(findings())
    assert [one.row for one in result] == sorted(one.row for one in result)
    return result, report[0]


def drop_reasons(found: list[Finding]) -> dict[int, str | None]:
    """Return row -> the reason why it is dropped."""
    return {one.row: one.reason for one in found}


def redacted(text: str, **config) -> str:
    """Return the text of a document after redaction."""
    done, _ = pii.redact_conversation(document(text), PiiConfig(**config))
    assert done.text is not None
    return done.text
