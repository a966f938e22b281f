"""Read the arguments of an instruction by the types that its check declares; anything unexpected is an error."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args

from sft_cli.errors import SftError
from sft_cli.scoring.instructions.base import Language, Relation
from sft_cli.scoring.instructions.text import detectable_languages
from sft_cli.utils.similar import closest_name


def read_kwargs(check: Callable[..., bool], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of a check, each converted to its declared type.

    A value of None counts as absent: some files give every item the arguments of all instructions.

    Raises:
        SftError: If an argument is unknown, missing or of another type.
    """
    given = {name: value for name, value in values.items() if value is not None}
    declared = _declared(check)
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "none"
            near = closest_name(name, declared)
            fix = f"did you mean {near}?" if near else f"remove {name}; the arguments of this instruction: {known}"
            raise SftError(where=where, problem=f"unknown argument {name!r}", fix=fix)
    for name in declared:
        if name not in given:
            raise SftError(where=where, problem=f"argument {name!r} is missing", fix=f"add {name} to the item's kwargs")
    return {name: _read(kind, given[name], f"{where}, {name}") for name, kind in declared.items()}


@cache
def _declared(check: Callable[..., bool]) -> dict[str, Any]:
    """Return the keyword arguments of a check and their types."""
    parameters = list(inspect.signature(check).parameters.values())[1:]
    return {parameter.name: parameter.annotation for parameter in parameters}


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value as the given type."""
    reader, expected = READERS[kind]
    result = reader(value)
    if result is None:
        raise SftError(where=where, problem=f"{value!r} is not {expected}", fix=f"write {expected}")
    return result


def _integer(value: Any) -> int | None:
    """Return a count; JSON files often write 5 as 5.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        return None
    return int(value)


def _text(value: Any) -> str | None:
    """Return a text that is not blank."""
    return value if isinstance(value, str) and value.strip() else None


def _texts(value: Any) -> tuple[str, ...] | None:
    """Return texts that are not blank, at least one."""
    if not isinstance(value, list | tuple) or not value or not all(_text(text) for text in value):
        return None
    return tuple(value)


def _relation(value: Any) -> str | None:
    """Return a relation of a count to a bound."""
    return value if value in get_args(Relation) else None


def _language(value: Any) -> str | None:
    """Return a language that can be detected."""
    return value if value in detectable_languages() else None


READERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_integer, "a whole number from 0"),
    str: (_text, "a text that is not blank"),
    tuple[str, ...]: (_texts, "a list of texts that are not blank"),
    Relation: (_relation, "'less than' or 'at least'"),
    Language: (_language, "the code of a language that langdetect knows, such as en or de"),
}
"""Type of an argument -> its reader, which returns None for a wrong value, and what it expects."""
