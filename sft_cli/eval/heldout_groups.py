"""Groups of held-out examples: by tag of their rows, and by length. Does not import torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from sft_cli.data.prepared import Split

LENGTHS = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Bounds of the length buckets, in tokens."""
TURN, LENGTH, SOURCE = "turn", "length", "source"
"""Groups that every example has."""
MAX_TURNS = 5
"""Turns with a group of their own; the last one holds all later turns."""

Members = Mapping[str, Mapping[str, Sequence[int]]]
"""The positions of the examples of each value of each group."""


def example_tags(directory: Path, split: Split) -> list[Mapping[str, str]]:
    """Return the tags of the row of each example (task, language or any other), from the ledger.

    Args:
        directory: The prepared directory.
        split: One of its splits.
    """
    places = list(zip(split.sources, (split.where(index) for index in range(len(split))), strict=True))
    wanted, found = set(places), dict[tuple[str, str], Mapping[str, str]]()
    with (directory / "ledger.jsonl").open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            place = entry["source"], entry["where"]
            if entry["tags"] and place in wanted:
                found[place] = entry["tags"]
    return [found.get(place, {}) for place in places]


def group_members(tags: Sequence[Mapping[str, str]], lengths: Sequence[int]) -> Members:
    """Return the groups of examples by each tag and by length.

    Args:
        tags: The tags of each example.
        lengths: The number of its tokens.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for position, own in enumerate(tags):
        for tag, value in own.items():
            groups.setdefault(tag, {}).setdefault(value, []).append(position)
    by_length: dict[str, list[int]] = {name: [] for name, _, _ in _buckets()}
    for position, length in enumerate(lengths):
        by_length[next(name for name, low, high in _buckets() if low < length <= high)].append(position)
    sorted_tags = {tag: dict(sorted(values.items())) for tag, values in sorted(groups.items())}
    return {**sorted_tags, LENGTH: {name: members for name, members in by_length.items() if members}}


def turn_name(index: int) -> str:
    """Return the name of a turn, from 0."""
    return str(index + 1) if index < MAX_TURNS - 1 else f"{MAX_TURNS} and later"


def _buckets() -> Iterator[tuple[str, int, float]]:
    """Yield the name and the bounds of each length bucket."""
    for low, high in pairwise(LENGTHS):
        yield f"{low + 1} to {high}", low, high
    yield f"over {LENGTHS[-1]}", LENGTHS[-1], float("inf")
