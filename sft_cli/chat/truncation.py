"""Truncate examples to ``trainer.max_length`` tokens, and record the lost parts.

Truncation follows the verification of the whole row, so the result is the beginning of a verified example: the same ids
with the same weights. Losses are counted: tokens, turns without their stop token, examples without loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sft_cli.types import Example, TokenIds

Range = tuple[int, int]
CUT_ANSWER = "cut_answer"
"""Remark for an answer or text whose trained tokens end without a stop token."""


@dataclass(frozen=True, slots=True)
class ProvenExample:
    """A verified example and the token ranges ``(start, end)`` of its trained turns, stop tokens included."""

    example: Example
    turns: Sequence[Range]

    @property
    def min_length(self) -> int:
        """Number of tokens up to and including the first trained token."""
        weights = self.example.weights
        return next((i for i, weight in enumerate(weights, 1) if weight), len(weights))

    def cut_turn(self, length: int) -> Range | None:
        """Return the trained turn that the first ``length`` tokens contain only in part, or None."""
        for start, end in self.turns:
            if start < length < end and any(self.example.weights[start:length]):
                return start, end
        return None


@dataclass(frozen=True, slots=True)
class TruncatedRow:
    """The truncated examples of one row.

    Attributes:
        examples: The examples that still contain a trained token.
        removed_tokens: Number of tokens removed, including those of examples without a trained token.
        cuts_answer: Whether a trained turn lost its end.
    """

    examples: tuple[Example, ...]
    removed_tokens: int
    cuts_answer: bool


def truncate(row: Sequence[ProvenExample], max_length: int) -> TruncatedRow:
    """Truncate each example of a row to its first ``max_length`` tokens."""
    kept = [proven for proven in row if any(proven.example.weights[:max_length])]
    examples = tuple(first_tokens(proven.example, max_length) for proven in kept)
    total = sum(len(proven.example.input_ids) for proven in row)
    return TruncatedRow(
        examples,
        total - sum(len(example.input_ids) for example in examples),
        any(proven.cut_turn(max_length) is not None for proven in kept),
    )


def first_tokens(example: Example, length: int) -> Example:
    """Return the first ``length`` tokens of an example; the example itself if it is not longer."""
    if len(example.input_ids) <= length:
        return example
    return replace(example, input_ids=example.input_ids[:length], weights=example.weights[:length])


def without_cut_turn(proven: ProvenExample, length: int) -> TokenIds:
    """Return the first ``length`` tokens of an example, without weight on the tokens of a turn that lost its end."""
    example = first_tokens(proven.example, length)
    start, _ = proven.cut_turn(length) or (length, length)
    weights = example.weights[:start] + (0.0,) * (len(example.weights) - start)
    return TokenIds(example.input_ids, weights)


def trained_ranges(weights: Sequence[float]) -> Iterator[Range]:
    """Yield the ranges of consecutive non-zero weights."""
    end = 0
    for trained, group in groupby(weights, bool):
        start, end = end, end + len(list(group))
        if trained:
            yield start, end
