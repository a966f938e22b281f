"""Perplexity and bits per byte of a text.

Perplexity is e to the mean of the negative log-likelihoods of its tokens in nats (Jelinek et al., 1977). It depends on
the tokenizer. Bits per byte, ``nats / (ln 2 * bytes)`` with the bytes of the text in UTF-8 (Gao et al., 2020, "The
Pile", section 3.1), compares models with different tokenizers.
"""

import math


def perplexity(nats: float, tokens: float) -> float:
    """Return the perplexity of tokens whose negative log-likelihoods have this sum; inf beyond float64."""
    if not tokens:
        return math.nan
    return math.exp(nats / tokens) if nats / tokens < 700 else math.inf


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Return the bits per byte of a text whose tokens' negative log-likelihoods have this sum."""
    return nats / math.log(2) / num_bytes if num_bytes else math.nan
