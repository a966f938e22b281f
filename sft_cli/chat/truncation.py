"""Truncation: the first ``trainer.max_length`` tokens of an example that is longer, and what is still true of them.

Truncation follows the proof of the whole row, so that what is left is the beginning of a proven example: the same ids
with the same weights. What it loses is counted: tokens, turns without their stop token, and examples without loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sft_cli.types import Example, TokenIds

Range = tuple[int, int]
CUT_ANSWER = "cut_answer"
"""Key of the remark about an answer, or a text, whose trained tokens end without a stop token."""


@dataclass(frozen=True, slots=True)
class Proven:
    """An example with its trained turns: ``(start, end)`` ranges of its tokens, in order, each with its stop token."""

    example: Example
    turns: Sequence[Range]

    @property
    def first_trained(self) -> int:
        """Tokens up to the first trained one, and with it."""
        weights = self.example.weights
        return next((i for i, weight in enumerate(weights, 1) if weight), len(weights))

    def open_turn(self, length: int) -> Range | None:
        """The trained turn that the first ``length`` tokens hold the beginning of, without the end."""
        for start, end in self.turns:
            if start < length < end and any(self.example.weights[start:length]):
                return start, end
        return None


@dataclass(frozen=True, slots=True)
class Truncated:
    """What is left of the examples of one row.

    Attributes:
        examples: Those that hold a trained token; the others are left out.
        tokens: Tokens that were cut, those of examples left out included.
        is_open: Whether a trained turn lost its end.
    """

    examples: tuple[Example, ...]
    tokens: int
    is_open: bool


def truncate(row: Sequence[Proven], max_length: int) -> Truncated:
    """Return the examples of a row, each without what follows its first ``max_length`` tokens."""
    kept = [proven for proven in row if any(proven.example.weights[:max_length])]
    examples = tuple(first_tokens(proven.example, max_length) for proven in kept)
    before = sum(len(proven.example.input_ids) for proven in row)
    return Truncated(
        examples,
        before - sum(len(example.input_ids) for example in examples),
        any(proven.open_turn(max_length) is not None for proven in kept),
    )


def first_tokens(example: Example, length: int) -> Example:
    """The first ``length`` tokens of an example; the example itself if it has no more."""
    if len(example.input_ids) <= length:
        return example
    return replace(example, input_ids=example.input_ids[:length], weights=example.weights[:length])


def without_open_turn(proven: Proven, length: int) -> TokenIds:
    """The first ``length`` tokens of an example, those of a turn that lost its end without weight."""
    example = first_tokens(proven.example, length)
    start, _ = proven.open_turn(length) or (length, length)
    weights = example.weights[:start] + (0.0,) * (len(example.weights) - start)
    return TokenIds(example.input_ids, weights)


def runs(weights: Sequence[float]) -> Iterator[Range]:
    """The ranges of consecutive weights other than 0."""
    at = 0
    for trained, group in groupby(weights, bool):
        start, at = at, at + len(list(group))
        if trained:
            yield start, at
