"""Questions with a reference answer, taken from prepared examples, and when an answer counts as right."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.data.prepared import Split

Decode = Callable[[Sequence[int]], str]
"""Ids -> text, special tokens included."""
REASONING_END = "</think>"


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Attributes:
        where: Place of the row it came from.
        source: Name of the source in the mix.
        prompt_ids: What a server sends: all ids before the answer.
        prompt: The same as text.
        expected: Text of the reference, without the stop token.
    """

    where: str
    source: str
    prompt_ids: tuple[int, ...]
    prompt: str
    expected: str


def decoder(tokenizer: ChatTokenizer) -> Decode:
    """The tokenizer's decoding of one list of ids."""
    return lambda ids: tokenizer.decode_batch([ids])[0]


def items(
    split: Split,
    decode: Decode,
    stop_ids: Sequence[int],
    indices: Iterable[int] | None = None,
    limit: int | None = None,
) -> list[Item]:
    """An item for each example that has one: the last trained span is the reference, all before it the prompt.

    A document, or a conversation trained whole, has no prompt and gives none. An answer that truncation cut is no
    reference: its example gives none.

    Args:
        split: The examples.
        decode: Ids -> text.
        stop_ids: Tokens that end an answer.
        indices: Examples to take, in this order; None for all.
        limit: Most items; None for all.
    """
    names = split.sources
    chosen = range(len(split)) if indices is None else indices
    found = (_item(split, index, names[index], decode, stop_ids) for index in chosen)
    return list(islice((item for item in found if item is not None), limit))


def _item(split: Split, index: int, source: str, decode: Decode, stop_ids: Sequence[int]) -> Item | None:
    """The item of one example, or None."""
    tokens = split.tokens(index)
    span = last_span(tokens.weights)
    # Nothing predicts id 0, so an example trained whole has its span begin at id 1.
    if span is None or span[0] <= 1:
        return None
    start, end = span
    answer = tokens.input_ids[start:end].tolist()
    if _is_cut(end, answer[-1], split, stop_ids):
        return None
    if answer[-1] in stop_ids:
        answer.pop()
    prompt = tokens.input_ids[:start].tolist()
    return Item(split.where(index), source, tuple(prompt), decode(prompt), decode(answer))


def _is_cut(end: int, last: int, split: Split, stop_ids: Sequence[int]) -> bool:
    """Whether an answer that ends before token ``end``, with the id ``last``, was cut by truncation."""
    return end == split.truncated_at and last not in stop_ids


def count_cut(split: Split, stop_ids: Sequence[int]) -> int:
    """Examples whose last answer was cut by truncation, so that they are no items."""
    longest = (split.tokens(int(index)) for index in np.flatnonzero(split.lengths == (split.truncated_at or -1)))
    return sum(
        one.weights[-1] != 0 and _is_cut(len(one.weights), int(one.input_ids[-1]), split, stop_ids) for one in longest
    )


def last_span(weights: NDArray[np.float32]) -> tuple[int, int] | None:
    """Start and end of the last run of ``(length,)`` weights other than 0; None where all are 0."""
    trained = np.flatnonzero(weights)
    if not len(trained):
        return None
    end = int(trained[-1]) + 1
    untrained = np.flatnonzero(weights[:end] == 0)
    return (int(untrained[-1]) + 1 if len(untrained) else 0), end


def normalized(text: str) -> str:
    """What is compared of an answer: no reasoning, no case, no extra spaces, no final full stop.

    The steps: cut through ``</think>``, Unicode NFC, case folding, runs of white space to one space, none at the ends,
    one final ``.`` off. Articles and inner punctuation stay, unlike in SQuAD's measure: ``The Who`` is not ``who``.
    """
    said = text.rpartition(REASONING_END)[2]
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", said).casefold())
    spaced = " ".join(folded.split())
    return spaced.removesuffix(".").rstrip() or spaced


def matches(answer: str, expected: str) -> bool:
    """Whether an answer is the reference, both normalised."""
    return normalized(answer) == normalized(expected)
