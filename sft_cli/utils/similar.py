"""Find the name that a mistyped one means, by spelling, so that no word of another meaning is suggested."""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

_SHORT = 3
"""Names of at most this length are too short to tell a typing error from another name."""


def edit_distance(one: str, other: str, most: int) -> int:
    """Return the number of letters to insert, remove, replace, or swap with the next one to get the other word.

    If the lengths differ by more than ``most``, that difference is returned at once, so that a very long word costs
    no time.
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
    """Return the number of typing errors allowed in a word of this length: one in four letters, at most three."""
    return 1 if len(word) <= _SHORT else min(3, max(1, len(word) // 4))


def distance_if_similar(typed: str, name: str) -> int | None:
    """Return the distance of a typed name from a valid one, or None if it is another word.

    Similar are names with a typing error (``trainer.lrr``), and some of the words of a name in their order, at least
    two (``grad_norm`` for ``max_grad_norm``, ``max_len`` for ``max_length``).
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


def closest_name(typed: str, names: Iterable[str]) -> str | None:
    """Return the name that ``typed`` probably means, or None; among equally similar ones the first.

    A set is searched in alphabetical order, so that every run gives the same answer.
    """
    ordered = sorted(names) if isinstance(names, AbstractSet) else names
    found = [(distance, name) for name in ordered if (distance := distance_if_similar(typed, name)) is not None]
    return min(found, key=lambda pair: pair[0])[1] if found else None
