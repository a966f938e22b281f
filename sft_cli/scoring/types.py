"""Items of an evaluation, answers to them, and verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """A question of a suite.

    Attributes:
        id: Identifies the item within its suite; stable when the suite's file is reordered.
        messages: The conversation up to the answer, each with ``role`` and ``content``.
        target: The expected answer or answers; empty if a scorer needs none.
        fields: All columns of the row that the item was made from.
        cluster: Items with the same cluster are not independent: turns of one conversation, paraphrases of one item.
        tags: Names of groups by which scores are also given, such as ``{"subject": "anatomy"}``.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    target: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a model.

    Attributes:
        text: The answer, without reasoning and without the stop token.
        reasoning: The reasoning before the answer; empty if there is none.
        stopped: Whether a stop token ended the answer, not a limit.
        num_tokens: Number of generated tokens, with reasoning and the stop token.
    """

    text: str
    reasoning: str = ""
    stopped: bool = True
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The scores of one answer.

    Attributes:
        scores: Score by metric; a metric without a value for this answer is missing.
        reason: Why the answer lost points, in one line; empty if it did not.
        extracted: The part of the answer that was compared; None if a scorer extracts nothing.
        label: The class of the answer, for tables of counts; empty if a scorer has no classes.
    """

    scores: Mapping[str, float]
    reason: str = ""
    extracted: str | None = None
    label: str = ""


class Scorer(Protocol):
    """Scores answers; made once per suite from the suite's options."""

    def check_items(self, items: Iterable[Item]) -> None:
        """Raise ``SftError`` for items that cannot be scored; called before any answer is generated."""
        ...

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the verdict of one answer."""
        ...

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the scores over all items that are not the mean of the items' scores; empty for most scorers."""
        ...
