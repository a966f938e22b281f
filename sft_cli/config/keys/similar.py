"""Which of several names a mistyped one is: near in spelling, so that no word of another meaning is offered."""

import re
from collections.abc import Iterable

_SHORT = 3
"""Letters up to which a name is too short for a slip to be told from another name."""


def edit_distance(one: str, other: str, most: int) -> int:
    """Letters to insert, remove, replace, or swap with their neighbour, that lead from one word to the other.

    Words whose lengths differ by more than ``most`` are that far apart at least; nothing else is computed of them, so
    that a word of any length costs no time.
    """
    if abs(len(one) - len(other)) > most:
        return abs(len(one) - len(other))
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        previous, row = row, [i]
        for j, target in enumerate(other, 1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == target:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = previous
    return row[-1]


def max_distance(word: str) -> int:
    """Slips that a word of this length may hold: one in four letters, three at most."""
    return 1 if len(word) <= _SHORT else min(3, max(1, len(word) // 4))


def distance_if_similar(typed: str, name: str) -> int | None:
    """How far a typed name is from a valid one; None where it is another word.

    Near is a slip of the fingers (``trainer.lrr``), or a part of the words in their order, two at least
    (``grad_norm`` for ``max_grad_norm``, ``max_len`` for ``max_length``).
    """
    typed, low = typed.lower(), name.lower()
    most = min(max_distance(typed), max_distance(low))
    distance = edit_distance(typed, low, most)
    if distance <= most:
        return distance
    if (
        len(typed) >= _SHORT
        and low.startswith(typed)
        and low[len(typed) :].isalnum()
        and len(low) - len(typed) <= _SHORT
    ):
        return len(low) - len(typed)
    short, long = re.split(r"[_.-]", typed), re.split(r"[_.-]", low)
    if len(short) < 2 or not len(long) - 1 <= len(short) <= len(long):
        return None
    rest = iter(long)
    if all(any(_is_abbreviation(part, whole) for whole in rest) for part in short):
        return max(1, len(low) - len(typed))
    return None


def _is_abbreviation(part: str, whole: str) -> bool:
    """Whether one word is short for another, or misspells it."""
    return whole.startswith(part) or (len(part) > _SHORT and edit_distance(part, whole, 1) <= 1)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` probably misspells, or None."""
    found = [(distance, choice) for choice in choices if (distance := distance_if_similar(word, choice)) is not None]
    return min(found, key=lambda pair: pair[0])[1] if found else None
