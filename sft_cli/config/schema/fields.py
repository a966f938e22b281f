"""Field types of the schema: numbers with limits, and values that the program chooses. Standard library only."""

from dataclasses import field
from enum import Enum
from typing import Any, TypeVar

N = TypeVar("N", int, float)


class Auto(str, Enum):
    """A value that the program chooses; the documentation of the field gives the rule."""

    auto = "auto"


def resolved(value: Auto | N) -> N:
    """Return a value that the user, or ``config.automatic``, has already chosen."""
    assert not isinstance(value, Auto), "config.automatic chooses it before it is read"
    return value


def bounded(
    default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Any:
    """Return a numeric field with limits: at least ``ge``, above ``gt``, at most ``le``, below ``lt``."""
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    stated_limits = {name: bound for name, bound in limits.items() if bound is not None}
    return field(default=default, metadata={"limits": stated_limits})
