"""Nested mappings: dotted keys, and values that JSON can represent."""

import math
from collections.abc import Iterator, Mapping
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
