"""The numbers of a line of metrics.jsonl by their names in trackers; without torch."""

from collections.abc import Iterator, Mapping
from typing import Any


def scalars(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the numbers of a line of metrics.jsonl by their names in trackers, such as ``eval/sources/<name>``."""
    if "retention" in line:
        return list(_numbers(line["retention"], "retention"))
    values = {name: value for name, value in line.items() if name not in ("step", "eval", "at", "terms")}
    return list(_numbers({**values, **line.get("terms", {})}, "eval" if "eval" in line else "train"))


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a nested mapping, with names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", value
