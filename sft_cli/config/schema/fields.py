"""How a schema states the limits of a number, and that a value is chosen by the program. Standard library only."""

from dataclasses import field
from enum import Enum
from typing import Any, TypeVar

N = TypeVar("N", int, float)


class Auto(str, Enum):
    """The program chooses the value; the line under the field says by what."""

    auto = "auto"


def resolved(value: Auto | N) -> N:
    """A value that has been chosen already, by the user or by ``config.automatic``."""
    assert not isinstance(value, Auto), "config.automatic chooses it before it is read"
    return value


def bounded(
    default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Any:
    """A numeric field with limits: at least ``ge``, above ``gt``, at most ``le``, below ``lt``."""
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    stated = {name: bound for name, bound in limits.items() if bound is not None}
    return field(default=default, metadata={"limits": stated})
