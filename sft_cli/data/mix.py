"""Which rows of a source are trained on and which are held out: by the seed, never the first ones."""

import hashlib
import math
from collections.abc import Sequence


def split_validation(keys: Sequence[str], val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the rows that are trained on and of those held out, each ascending; together every row once.

    Held out are ``val_fraction`` of the rows, rounded, but at least one and never all, if there are two that differ.
    Rows of equal key stay together, so that a question is never trained on and asked; a group that would exceed the
    number is passed over. A row's side hangs on its key and the seed: rows added later hardly move the others.

    Args:
        keys: One per row, for example its prompt.
        val_fraction: Share that is held out, in [0, 1).
        seed: Chooses them.
    """
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    wanted = 0 if val_fraction == 0 else min(max(1, round(val_fraction * len(keys))), len(keys) - 1)
    held_out: set[int] = set()
    for key in sorted(groups, key=lambda key: _rank(f"{seed}:validation:{key}")):
        if len(held_out) + len(groups[key]) <= wanted:
            held_out.update(groups[key])
    return [index for index in range(len(keys)) if index not in held_out], sorted(held_out)


def take(num_rows: int, max_rows: int | None, weight: float, seed: int, name: str) -> list[int]:
    """Indices of the rows of one epoch, ascending; a row that is passed over twice is there twice.

    The seed chooses ``max_rows`` of the rows. They are taken ``floor(weight)`` times, and of the rest of ``weight`` a
    share, rounded: 2.5 takes every row twice and half of them a third time. At least one row is taken if there is one.
    A larger ``max_rows`` or ``weight`` only adds rows.

    Args:
        num_rows: Rows of the source.
        max_rows: Use at most this many of them; None uses all.
        weight: Passes per epoch, above 0.
        seed: Chooses them.
        name: Name of the source: two sources of equal length are sampled differently.
    """
    order = sorted(range(num_rows), key=lambda index: _rank(f"{seed}:{name}:{index}"))[:max_rows]
    passes = math.floor(weight)
    share = round((weight - passes) * len(order))
    if passes == 0 and order:
        share = max(1, share)
    return sorted(order * passes + order[:share])


def _rank(text: str) -> bytes:
    """A place in a shuffled order, the same on every machine."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
