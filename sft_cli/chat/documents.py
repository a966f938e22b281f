"""Rows without messages: rows of token ids, which are trained unchanged, and documents, which may be split."""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

from sft_cli.types import Example, TokenIds


class InvalidTokenIds(Exception):
    """A row of token ids cannot be trained on; the message gives the reason."""


def validate_token_ids(tokens: TokenIds, vocab_size: int) -> tuple[float, ...]:
    """Return the weights of a row of token ids, with 0 for the first token, which nothing predicts.

    Args:
        tokens: The row.
        vocab_size: Every id must be below this.

    Raises:
        InvalidTokenIds: An id is out of range, a weight is invalid, or no token carries loss.
    """
    ids, weights = tokens.input_ids, tokens.weights
    if len(ids) != len(weights):
        raise InvalidTokenIds(f"it has {len(ids)} ids and {len(weights)} weights")
    unknown = next((id for id in ids if not 0 <= id < vocab_size), None)
    if unknown is not None:
        raise InvalidTokenIds(f"id {unknown} is not one of the tokenizer's {vocab_size}: another tokenizer wrote it")
    if any(weight < 0 or not math.isfinite(weight) for weight in weights):
        raise InvalidTokenIds("a weight is negative or not finite")
    if not any(weights[1:]):
        raise InvalidTokenIds(
            "no token carries loss" + (" except the first, which nothing predicts" if any(weights) else "")
        )
    return (0.0, *weights[1:])


def lacks_stop_token(tokens: TokenIds, control_ids: Collection[int]) -> bool:
    """Return whether an answer is trained without a stop token: the model would not learn to stop.

    Args:
        tokens: The row.
        control_ids: Ids of the tokenizer's control tokens.
    """
    ids, weights = tokens.input_ids, tokens.weights
    ends = (t for t in range(len(ids)) if weights[t] and (t + 1 == len(ids) or not weights[t + 1]))
    return any(ids[t] not in control_ids and (t + 1 == len(ids) or ids[t + 1] in control_ids) for t in ends)


def split_document(document: Example, max_length: int) -> Iterator[Example]:
    """Split a document into consecutive pieces of at most ``max_length`` tokens.

    Each piece begins with the last token of the previous one, without loss: every token is predicted exactly once.
    """
    ids, weights = document.input_ids, document.weights
    for start in range(0, max(len(ids) - 1, 1), max_length - 1):
        end = start + max_length
        yield replace(document, input_ids=ids[start:end], weights=(0.0, *weights[start + 1 : end]))
