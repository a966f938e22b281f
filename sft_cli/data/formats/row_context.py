"""Carry the place, roles and notes of a row while it is converted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_cli.data.formats.fields import Fields, FormatOptions


@dataclass(slots=True)
class RowContext:
    """The state of one row while it is converted.

    Attributes:
        where: Its location, for errors.
        source: Name of its source in the mix.
        roles: The source's ``roles``, their names as ``fold_role`` writes them.
        repairs: Repairs that were made, in a few words each.
        remarks: Its remarks, as keys of data/remarks.py.
        not_read: Its keys that nothing reads.
        default_weight: Weight of assistant messages without a loss flag.
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
        """Return the context for a row that is about to be converted."""
        return cls(fields.row.where, fields.row.source, options.roles)

    def tags(self) -> dict[str, str]:
        """Return the tags that the conversion itself sets."""
        return {"repaired": ", ".join(sorted(self.repairs))} if self.repairs else {}


@lru_cache(maxsize=4096)
def fold_role(name: str) -> str:
    """Return the name of a role in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


@lru_cache(maxsize=4096)
def key_words(key: str) -> tuple[str, ...]:
    """Return the words of a key: ``trainOnTurn``, ``train-on-turn`` and ``Train_On_Turn`` are ``(train, on, turn)``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return tuple(word for word in re.split(r"[\s_-]+", spaced.lower()) if word)


def has_value(value: Any) -> bool:
    """Return whether a value has content: null, blank text and empty lists and objects have none."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | dict | tuple) and not value)
