"""What goes along while a row is read: its place, the roles of its source, and what is noted about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_cli.data.formats.fields import Fields, Knobs


@dataclass(slots=True)
class Context:
    """One row while it is read.

    Attributes:
        where: Its place, for errors.
        source: Name of its source in the mix.
        roles: The source's ``roles``, their names as ``compact`` writes them.
        repairs: What had to be repaired in it, in a few words each.
        remarks: Keys of data/remarks.py: what was done to it.
        not_read: Keys of it that nothing reads.
        untold: Weight of the assistant's messages about which nothing is said.
    """

    where: str
    source: str
    roles: Mapping[str, str] = field(default_factory=dict)
    repairs: set[str] = field(default_factory=set)
    remarks: set[str] = field(default_factory=set)
    not_read: set[str] = field(default_factory=set)
    untold: float = 1.0

    @classmethod
    def of(cls, fields: "Fields", knobs: "Knobs") -> "Context":
        """The context of a row whose reading begins."""
        return cls(fields.row.where, fields.row.source, knobs.roles)

    def tags(self) -> dict[str, str]:
        """The tags that preparation itself sets."""
        return {"repaired": ", ".join(sorted(self.repairs))} if self.repairs else {}


@lru_cache(maxsize=4096)
def compact(name: str) -> str:
    """The name of a role without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


@lru_cache(maxsize=4096)
def words_of(key: str) -> tuple[str, ...]:
    """The words of a key: ``trainOnTurn``, ``train-on-turn`` and ``Train_On_Turn`` are ``(train, on, turn)``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return tuple(word for word in re.split(r"[\s_-]+", spaced.lower()) if word)


def holds(value: Any) -> bool:
    """Whether a value says anything: null, blank text and empty lists and objects do not."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | dict | tuple) and not value)
