"""What goes along while a row is read: its place, the roles of its source, and what is noted about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_cli.data.formats.fields import Fields, FormatOptions


@dataclass(slots=True)
class RowContext:
    """One row while it is read.

    Attributes:
        where: Its place, for errors.
        source: Name of its source in the mix.
        roles: The source's ``roles``, their names as ``fold_role`` writes them.
        repairs: What had to be repaired in it, in a few words each.
        remarks: Keys of data/remarks.py: what was done to it.
        not_read: Keys of it that nothing reads.
        default_weight: Weight of the assistant's messages about which nothing is said.
    """

    where: str
    source: str
    roles: Mapping[str, str] = field(default_factory=dict)
    repairs: set[str] = field(default_factory=set)
    remarks: set[str] = field(default_factory=set)
    not_read: set[str] = field(default_factory=set)
    default_weight: float = 1.0

    @classmethod
    def from_fields(cls, fields: "Fields", options: "FormatOptions") -> "RowContext":
        """The context of a row whose reading begins."""
        return cls(fields.row.where, fields.row.source, options.roles)

    def tags(self) -> dict[str, str]:
        """The tags that preparation itself sets."""
        return {"repaired": ", ".join(sorted(self.repairs))} if self.repairs else {}


@lru_cache(maxsize=4096)
def fold_role(name: str) -> str:
    """The name of a role without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


@lru_cache(maxsize=4096)
def key_words(key: str) -> tuple[str, ...]:
    """The words of a key: ``trainOnTurn``, ``train-on-turn`` and ``Train_On_Turn`` are ``(train, on, turn)``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return tuple(word for word in re.split(r"[\s_-]+", spaced.lower()) if word)


def has_value(value: Any) -> bool:
    """Whether a value says anything: null, blank text and empty lists and objects do not."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | dict | tuple) and not value)
