"""Measure how much answers differ from each other: distinct n-grams, and BLEU of each answer against the others."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import exp, log

ORDER = 4
"""Longest n-grams of BLEU."""


def ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """Return the n-grams of a text with their counts."""
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def distinct_share(texts: Sequence[Sequence[str]], size: int) -> float | None:
    """Return distinct n-grams over all n-grams of all texts (Li et al. 2016); None if there are none."""
    total, distinct = 0, set[tuple[str, ...]]()
    for words in texts:
        counts = ngrams(words, size)
        total += counts.total()
        distinct.update(counts)
    return len(distinct) / total if total else None


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU of each text with all others as references, 0 to 1 (Zhu et al. 2018).

    High means that the answers are alike. An order without a match counts as half a match, the next as a quarter, as in
    sacrebleu ("exp"). Time and memory are linear in the number of words: of each n-gram, the two highest counts are
    kept, since a text's references have the highest count of all other texts.

    Returns:
        None for fewer than two texts with words.
    """
    filled = [words for words in texts if words]
    if len(filled) < 2:
        return None
    highest = [_two_highest(filled, size) for size in range(1, ORDER + 1)]
    lengths = sorted(len(words) for words in filled)
    return sum(_bleu_of(words, highest, lengths) for words in filled) / len(filled)


def _two_highest(texts: Sequence[Sequence[str]], size: int) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the highest and second-highest count of each n-gram in one text."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for words in texts:
        for gram, count in ngrams(words, size).items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (count, first) if count > first else (first, max(second, count))
    return found


def _bleu_of(
    words: Sequence[str], highest: Sequence[dict[tuple[str, ...], tuple[int, int]]], lengths: Sequence[int]
) -> float:
    """Return the BLEU of one text against all others.

    Args:
        words: The text.
        highest: For each order, the two highest counts of each n-gram.
        lengths: Lengths of all texts, this one's too, in ascending order.
    """
    logs, smooth = [], 1.0
    for size in range(1, min(ORDER, len(words)) + 1):
        matches = total = 0
        for gram, count in ngrams(words, size).items():
            first, second = highest[size - 1][gram]
            # This text's count is the highest, or another's is at least as high.
            matches += min(count, second if count == first else first)
            total += count
        if matches == 0:
            smooth *= 2
        logs.append(log(matches / total) if matches else log(1 / (smooth * total)))
    return exp(sum(logs) / len(logs)) * _brevity(len(words), lengths)


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """Return the penalty of a text shorter than the nearest length of the others; of equally near ones the shorter."""
    own = bisect_left(lengths, length)
    others = [*lengths[max(0, own - 1) : own], *lengths[own + 1 : own + 2]]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= nearest else exp(1 - nearest / length)
