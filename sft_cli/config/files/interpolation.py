"""``${references}`` in a config: to other keys, and to a few variables of the environment; nothing else is read."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.errors import SftError

ENVIRONMENT = (
    *("HOME", "USER", "SCRATCH", "WORK", "TMPDIR", "SFT_HOME"),
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
)
"""Variables a config may read: places and numbers of jobs. Any other may hold a secret, and configs are kept."""
LIMIT = 200_000
"""Values and characters that all references of a config may put in together."""
CHAIN = 16
"""How many references may lead from one to the next."""

_REFERENCE = re.compile(r"(\\*)\$\{([^{}]*)(\}?)")
_OPEN = "${"
_FIX = "refer to a full key, as in ${trainer.max_length}; for a plain dollar sign write \\${"


def interpolate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[SftError]]:
    """Return the values with every reference resolved, and the errors of references."""
    reading = _Resolver(values)
    try:
        return {
            str(name): reading.value_at(entry, (str(name),), ()) for name, entry in values.items()
        }, reading.mistakes
    except _LimitExceeded:
        problem = f"its references to other values put in more than {LIMIT:,} values and characters"
        return dict(values), [SftError(where="config", problem=problem, fix="write such values where they are used")]


class _LimitExceeded(Exception):
    """The references grow beyond all bounds."""


class _InvalidReference(Exception):
    """A reference that cannot be followed; the message says why."""


class _Resolver:
    """Resolves all references of one config."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self._spent = values, 0
        self.mistakes: list[SftError] = []

    def value_at(self, value: Any, key: tuple[str, ...], chain: tuple[tuple[str, ...], ...]) -> Any:
        """Return a key's value with its references resolved; ``chain`` holds the keys that referred to it."""
        if chain:
            self._spend(len(value) if isinstance(value, str) else 1)
        if isinstance(value, Mapping):
            return {name: self.value_at(entry, (*key, str(name)), chain) for name, entry in value.items()}
        if isinstance(value, list):
            return [self.value_at(entry, (*key, str(place)), chain) for place, entry in enumerate(value)]
        if not isinstance(value, str) or _OPEN not in value:
            return value
        try:
            return self._text(value, key, chain)
        except _InvalidReference as error:
            if not chain:
                self.mistakes.append(
                    SftError(where=".".join(key), problem=f"refers to another value: {error}", fix=_FIX)
                )
                return value
            raise

    def _text(self, text: str, key: tuple[str, ...], chain: tuple[tuple[str, ...], ...]) -> Any:
        """Return a text with its references resolved; a text that is only a reference becomes the value itself."""
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and not whole[1] and whole[3]:
            return self._target(whole[2].strip(), key, chain)

        def put(found: re.Match[str]) -> str:
            """Return the text that replaces a reference."""
            kept = found[1][: len(found[1]) // 2]
            if len(found[1]) % 2:
                return kept + found[0][len(found[1]) :]
            if not found[3]:
                raise _InvalidReference(f"{found[0][:60]!r} is not closed, or holds another reference")
            value = self._target(found[2].strip(), key, chain)
            if isinstance(value, Mapping | list):
                raise _InvalidReference(f"{found[2]!r} holds several values, which cannot be part of a text")
            return kept + {None: "null", True: "true", False: "false"}.get(value, str(value))

        return _REFERENCE.sub(put, text)

    def _target(self, name: str, key: tuple[str, ...], chain: tuple[tuple[str, ...], ...]) -> Any:
        """Return what a reference resolves to."""
        self._spend(1)
        kind, colon, rest = name.partition(":")
        if colon:
            return self._resolver(kind.strip(), rest)
        path = _absolute_path(name, key)
        if path in chain or key[: len(path)] == path or len(chain) == CHAIN:
            raise _InvalidReference(
                f"{name!r} leads back to itself" if len(chain) < CHAIN else f"more than {CHAIN} in a row"
            )
        return self.value_at(_get_path(self._values, path, name), path, (*chain, path))

    def _resolver(self, kind: str, rest: str) -> str | None:
        """``oc.env:NAME`` or ``oc.env:NAME,default``."""
        if kind != "oc.env":
            raise _InvalidReference(
                f"'{kind}:' is not read here; there are keys, and oc.env: for {', '.join(ENVIRONMENT)}"
            )
        name, comma, default = (part.strip() for part in rest.partition(","))
        if name not in ENVIRONMENT:
            raise _InvalidReference(
                f"the environment variable {name!r} is not among those read: {', '.join(ENVIRONMENT)}"
            )
        if name in os.environ:
            self._spend(len(os.environ[name]))
            return os.environ[name]
        if not comma:
            raise _InvalidReference(
                f"the environment variable {name!r} is not set, and there is no default after a comma"
            )
        return None if default == "null" else default.strip("'\"")

    def _spend(self, amount: int) -> None:
        self._spent += amount
        if self._spent > LIMIT:
            raise _LimitExceeded


def _absolute_path(name: str, key: Sequence[str]) -> tuple[str, ...]:
    """Return the path of ``a.b[0]``, of ``.b`` in the section of ``key``, or of ``..b`` one section above."""
    rest = name.lstrip(".")
    up = len(name) - len(rest)
    base = key[: max(0, len(key) - up)] if up else ()
    return (*base, *re.sub(r"\[([^\[\]]*)\]", r".\1", rest).split("."))


def _get_path(values: Any, path: Sequence[str], name: str) -> Any:
    """The value at a path."""
    for part in path:
        if isinstance(values, Mapping):
            values = {str(key): (entry,) for key, entry in values.items()}.get(part)
        elif isinstance(values, list) and part.isdecimal() and len(part) < 10 and int(part) < len(values):
            values = (values[int(part)],)
        else:
            values = None
        if values is None:
            raise _InvalidReference(f"the key {name!r} not found")
        (values,) = values
    return values
