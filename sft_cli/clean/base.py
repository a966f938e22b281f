"""What every filter sees and says: the rows that are left, and a finding for each row it has something to say about.

A filter is a generator ``find(rows, config) -> Iterator[Found]``, findings in ascending order of row, that returns
its report (plain JSON values) or None. Work on single rows goes through ``rows.map``, which spreads it over processes
and keeps the order, so that nothing depends on their number.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sft_cli.types import Conversation

Argument = TypeVar("Argument")
Result = TypeVar("Result")
BATCH = 1000
"""Conversations handed to a function at once."""


class Finding(NamedTuple):
    """What a filter says about one row.

    Attributes:
        row: The row's number in ``rows``.
        reason: Why it is dropped, in a few words shared by all such rows; None keeps it.
        detail: The sentence about this very row.
        score: The number that the finding is based on, for the ledger.
        conversation: What takes the row's place (redacted, tagged); None leaves it as it is.
        cluster: Number of the rows that are alike: those that are kept stay on one side of the validation split.
    """

    row: int
    reason: str | None = None
    detail: str = ""
    score: float | None = None
    conversation: Conversation | None = None
    cluster: int | None = None


Findings = Generator[Finding, None, dict[str, Any] | None]
"""Findings in ascending order of row; what is returned at the end is the filter's report."""


class RowView(Protocol):
    """The rows that are left when a filter begins, numbered from 0 over all sources in the order of the mix."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """One row, read from disk: for the few that are looked at again."""
        ...

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """``(rows,)``: whether a row comes from a source's own validation rows."""
        ...

    @property
    def priority(self) -> NDArray[np.int64]:
        """``(rows,)``: priority of the row's source."""
        ...

    def map(
        self, function: Callable[[Sequence[Conversation], Argument], Sequence[Result]], argument: Argument
    ) -> Iterator[tuple[int, Sequence[Result]]]:
        """``function`` over all rows in batches: the number of the first row of each and one result per row.

        The function is one of a module (it is sent to processes by name), the argument a config.
        """
        ...


def normalized_words(text: str) -> list[str]:
    """The words of a text for comparison: lower case, letters and digits only.

    A letter keeps the marks that belong to it (accents, vowel signs); Chinese, Japanese, Thai, Lao, Burmese and Khmer
    are cut into single characters.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _unicode_word().findall(unicodedata.normalize("NFC", text).casefold())


_ASCII_WORD = re.compile(r"[a-z0-9]+")
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


@functools.cache
def _unicode_word() -> re.Pattern[str]:
    r"""A word of any script; Python's ``\w`` knows no combining marks, so they are listed.

    Only those below U+10000: a class that reaches beyond is searched one by one, many times slower.
    """
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    letters = rf"[^\W_{_UNSPACED}]"
    return re.compile(rf"{letters}+(?:[{marks}]+{letters}*)*|(?!\W)[{_UNSPACED}][{marks}]*")


def prompt_text(conversation: Conversation) -> str:
    """What is asked: all messages before the last answer, or a document's text."""
    if conversation.text is not None:
        return conversation.text
    return "\n".join(message.content for message in conversation.messages[: _last_answer_index(conversation)])


def answer_text(conversation: Conversation) -> str:
    """The last assistant message; empty for a document."""
    at = _last_answer_index(conversation)
    return conversation.messages[at].content if at < len(conversation.messages) else ""


def _last_answer_index(conversation: Conversation) -> int:
    """Index of the last assistant message; the number of messages if there is none."""
    answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    return answers[-1] if answers else len(conversation.messages)
