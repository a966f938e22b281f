"""How a schema states the limits of a number. Standard library only."""

from dataclasses import field
from typing import Any


def number(
    default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Any:
    """A numeric field with limits: at least ``ge``, above ``gt``, at most ``le``, below ``lt``."""
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    stated = {name: bound for name, bound in limits.items() if bound is not None}
    return field(default=default, metadata={"limits": stated})
