"""Agreement of two raters."""

from collections import Counter
from collections.abc import Hashable, Sequence


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return the agreement beyond chance of two raters (Cohen, 1960): 1 is full agreement, 0 that of chance.

    None without ratings, or if both give one and the same label to everything, where kappa is not defined.
    """
    if not first:
        return None
    pairs, n = list(zip(first, second, strict=True)), len(first)
    observed = sum(a == b for a, b in pairs) / n
    left, right = Counter(first), Counter(second)
    expected = sum(left[label] * right[label] for label in left) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)
