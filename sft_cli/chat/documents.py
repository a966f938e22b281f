"""Rows that are no conversations: token ids trained as they are, and documents cut into pieces."""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

from sft_cli.types import Example, TokenIds


class Unusable(Exception):
    """Token ids that cannot be trained on; the message says why."""


def checked(tokens: TokenIds, num_ids: int) -> tuple[float, ...]:
    """The weights of a row of token ids, the first one 0: nothing predicts the first token.

    Args:
        tokens: The row.
        num_ids: The tokenizer's ids are below this.

    Raises:
        Unusable: An id is not the tokenizer's, or nothing is trained.
    """
    ids, weights = tokens.input_ids, tokens.weights
    if len(ids) != len(weights):
        raise Unusable(f"it has {len(ids)} ids and {len(weights)} weights")
    unknown = next((id for id in ids if not 0 <= id < num_ids), None)
    if unknown is not None:
        raise Unusable(f"id {unknown} is not one of the tokenizer's {num_ids}: it was made with another one")
    if any(weight < 0 or not math.isfinite(weight) for weight in weights):
        raise Unusable("a weight is negative or not finite")
    if not any(weights[1:]):
        raise Unusable("no token carries loss" + (" but the first, which nothing predicts" if any(weights) else ""))
    return (0.0, *weights[1:])


def without_stop(tokens: TokenIds, control: Collection[int]) -> bool:
    """Whether an answer is trained without a token that ends it: a model that learns it does not learn to stop.

    Args:
        tokens: The row.
        control: Ids of the tokenizer's control tokens.
    """
    ids, weights = tokens.input_ids, tokens.weights
    ends = (t for t in range(len(ids)) if weights[t] and (t + 1 == len(ids) or not weights[t + 1]))
    return any(ids[t] not in control and (t + 1 == len(ids) or ids[t + 1] in control) for t in ends)


def pieces(document: Example, max_length: int) -> Iterator[Example]:
    """A document in consecutive pieces of at most ``max_length`` tokens.

    Each piece begins with the last token of the one before, without loss: every token is predicted exactly once.
    """
    ids, weights = document.input_ids, document.weights
    for start in range(0, max(len(ids) - 1, 1), max_length - 1):
        end = start + max_length
        yield replace(document, input_ids=ids[start:end], weights=(0.0, *weights[start + 1 : end]))
