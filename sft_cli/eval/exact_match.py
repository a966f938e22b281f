"""Questions with reference answers, extracted from prepared examples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.data.prepared import Split

Decode = Callable[[Sequence[int]], str]
"""Decodes ids to text, including special tokens."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its reference answer.

    Attributes:
        where: File and line of the row.
        source: Name of the source in the mix.
        prompt_ids: All ids before the answer, as a server encodes them.
        prompt: Text of the prompt.
        expected: Text of the reference answer, without the stop token.
    """

    where: str
    source: str
    prompt_ids: tuple[int, ...]
    prompt: str
    expected: str


def make_decoder(tokenizer: ChatTokenizer) -> Decode:
    """Return a function that decodes a list of ids."""
    return lambda ids: tokenizer.decode_batch([ids])[0]


def extract_questions(
    split: Split,
    decode: Decode,
    stop_ids: Sequence[int],
    indices: Iterable[int] | None = None,
    limit: int | None = None,
) -> list[Question]:
    """Extract a question from each example that has one: its last trained span is the reference answer.

    Everything before that span is the prompt. A document, or a conversation trained as a whole, has no prompt and so no
    question. An example whose answer was cut by truncation has none either.

    Args:
        split: The examples.
        decode: Decodes ids to text.
        stop_ids: Tokens that end an answer.
        indices: The examples to use, in this order; None for all.
        limit: Largest number of questions; None for all.
    """
    names = split.sources
    chosen = range(len(split)) if indices is None else indices
    questions = (_question(split, index, names[index], decode, stop_ids) for index in chosen)
    return list(islice((item for item in questions if item is not None), limit))


def _question(split: Split, index: int, source: str, decode: Decode, stop_ids: Sequence[int]) -> Question | None:
    """Return the question of one example, or None."""
    tokens = split.tokens(index)
    span = last_trained_span(tokens.weights)
    # The first token is never predicted, so the span of an example trained as a whole begins at position 1.
    if span is None or span[0] <= 1:
        return None
    start, end = span
    answer = tokens.input_ids[start:end].tolist()
    if _is_truncated(end, answer[-1], split, stop_ids):
        return None
    if answer[-1] in stop_ids:
        answer.pop()
    prompt = tokens.input_ids[:start].tolist()
    return Question(split.where(index), source, tuple(prompt), decode(prompt), decode(answer))


def _is_truncated(end: int, last: int, split: Split, stop_ids: Sequence[int]) -> bool:
    """Return whether an answer that ends before token ``end``, with the id ``last``, was cut by truncation."""
    return end == split.truncated_at and last not in stop_ids


def count_truncated_answers(split: Split, stop_ids: Sequence[int]) -> int:
    """Return the number of examples without a question because truncation cut their last answer."""
    longest = (split.tokens(int(index)) for index in np.flatnonzero(split.lengths == (split.truncated_at or -1)))
    return sum(
        example.weights[-1] != 0 and _is_truncated(len(example.weights), int(example.input_ids[-1]), split, stop_ids)
        for example in longest
    )


def last_trained_span(weights: NDArray[np.float32]) -> tuple[int, int] | None:
    """Return start and end of the last run of nonzero weights ``(length,)``; None if all are 0."""
    trained = np.flatnonzero(weights)
    if not len(trained):
        return None
    end = int(trained[-1]) + 1
    untrained = np.flatnonzero(weights[:end] == 0)
    return (int(untrained[-1]) + 1 if len(untrained) else 0), end
