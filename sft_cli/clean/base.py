"""Define the interface of filters: the rows that they see, and the findings that they return.

A filter is a generator ``find(rows, config) -> Iterator[Finding]`` with findings in ascending order of row. It returns
its report (JSON values) or None. Work on single rows goes through ``rows.map``, which distributes it over processes and
keeps the order, so that results do not depend on their number.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.optional_deps import missing_libraries

Argument = TypeVar("Argument")
Result = TypeVar("Result")
BATCH = 1000
"""Conversations per call of a function."""


class Finding(NamedTuple):
    """The finding of a filter about one row.

    Attributes:
        row: The row's number in ``rows``.
        reason: Why it is dropped, in a few words that all such rows share; None keeps it.
        detail: A sentence about this row.
        score: The number that the finding is based on, for the ledger.
        conversation: The row's replacement (redacted, tagged); None keeps it unchanged.
        cluster: Number of a cluster of similar rows: those that are kept stay on one side of the validation split.
    """

    row: int
    reason: str | None = None
    detail: str = ""
    score: float | None = None
    conversation: Conversation | None = None
    cluster: int | None = None


Findings = Generator[Finding, None, dict[str, Any] | None]
"""Findings in ascending order of row; the generator's return value is the filter's report."""


class RowView(Protocol):
    """The rows that are left when a filter starts, numbered from 0 over all sources in the order of the mix."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """Return one row, read from disk: for the few rows that are read again."""
        ...

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """``(rows,)``: whether a row comes from a source's own held-out rows."""
        ...

    @property
    def priority(self) -> NDArray[np.int64]:
        """``(rows,)``: priority of the row's source."""
        ...

    def map(
        self, function: Callable[[Sequence[Conversation], Argument], Sequence[Result]], argument: Argument
    ) -> Iterator[tuple[int, Sequence[Result]]]:
        """Yield ``function`` over all rows in batches: the number of each batch's first row, and one result per row.

        The function must be defined in a module, since it is sent to processes by name; the argument is a config.
        """
        ...


def prompt_text(conversation: Conversation) -> str:
    """Return the prompt: all messages before the last answer, or a document's text."""
    if conversation.text is not None:
        return conversation.text
    return "\n".join(message.content for message in conversation.messages[: _last_answer_index(conversation)])


def answer_text(conversation: Conversation) -> str:
    """Return the last assistant message; an empty text for a document."""
    index = _last_answer_index(conversation)
    return conversation.messages[index].content if index < len(conversation.messages) else ""


def _last_answer_index(conversation: Conversation) -> int:
    """Return the index of the last assistant message; the number of messages if there is none."""
    answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    return answers[-1] if answers else len(conversation.messages)


def require_library(step: str, module: str) -> None:
    """Refuse a step whose library is not installed."""
    if found := missing_libraries(f"the step {step}", [module], "clean"):
        problem, fix = found
        raise SftError(where="clean.steps", problem=problem, fix=fix)
