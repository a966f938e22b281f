"""Nested mappings: dotted keys, merging, and values that JSON can represent."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def flatten(value: Any, prefix: str = "", *, keep_empty: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a nested mapping with their values; with ``keep_empty``, an empty mapping is a value."""
    if isinstance(value, Mapping) and (value or not keep_empty):
        for name, entry in value.items():
            yield from flatten(entry, f"{prefix}.{name}" if prefix else str(name), keep_empty=keep_empty)
    else:
        yield prefix, value


def nan_to_none(value: Any) -> Any:
    """Return the value, also inside mappings, with None for each number that is not finite, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: nan_to_none(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def merge_at(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a dotted path; mappings are merged, other values are replaced."""
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    if isinstance(value, dict) and isinstance(values.get(path[-1]), dict):
        for name, entry in value.items():
            merge_at(values[path[-1]], [str(name)], entry)
    else:
        values[path[-1]] = copy.deepcopy(value)
