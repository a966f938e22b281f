"""Conditions on runs, such as ``state=finished and held_out_loss<2``."""

import operator
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*(?P<name>[\w./-]+)\s*(?P<operator><=|>=|!=|==?|<|>)\s*(?P<value>[^<>=]*?)\s*")
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_NAMED_VALUES = {"none": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison.

    Attributes:
        name: A figure of a run or a dotted key of its config.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
        value: A number, a text, True, False, or None for a missing value.
        text: The condition as it was typed.
    """

    name: str
    operator: str
    value: float | str | bool | None
    text: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the condition holds; a value that is missing or no number is neither less nor greater.

        Args:
            values: The figures of a run and its config, by name.
        """
        value = values.get(self.name)
        if self.operator in ("=", "!="):
            equal = value == self.value if _is_plain(value) else str(value) == str(self.value)
            return _OPERATORS[self.operator](equal, True)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and _OPERATORS[self.operator](value, self.value)


def parse_conditions(expressions: Sequence[str]) -> list[Condition]:
    """Return the conditions of all expressions; an expression joins conditions with ``and``.

    Raises:
        SftError: An expression is not of the form ``NAME OPERATOR VALUE``, or compares the size of a text.
    """
    return [_parse(text, expression) for expression in expressions for text in _AND.split(expression)]


def select_records(
    records: Sequence[Mapping[str, Any]], conditions: Sequence[Condition], names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return the records for which all conditions hold.

    Args:
        records: Figures and config of each run, by name.
        conditions: The conditions.
        names: Names that every run has.

    Raises:
        SftError: No run has a value of a name.
    """
    known = list(dict.fromkeys([*names, *(name for record in records for name in record)]))
    for condition in conditions if records else ():
        if condition.name not in known:
            near = closest_name(condition.name, known)
            fix = f"did you mean {near}? " if near else ""
            fix += f"names: {', '.join(names)}; or a key of the config, such as trainer.lr"
            raise SftError(where=f"--where {condition.text!r}", problem=f"no run has a {condition.name}", fix=fix)
    return [record for record in records if all(condition.holds(record) for condition in conditions)]


def _parse(text: str, expression: str) -> Condition:
    """Return one condition."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise SftError(
            where=f"--where {expression!r}",
            problem=f"{text.strip()!r} is not of the form NAME=VALUE, NAME<NUMBER or similar",
            fix="sft runs --where 'state=finished and held_out_loss<2'",
        )
    sign = found["operator"].replace("==", "=")
    value = _value(found["value"])
    if sign not in ("=", "!=") and (isinstance(value, str | bool) or value is None):
        raise SftError(
            where=f"--where {expression!r}",
            problem=f"{found['name']} is compared in size with {found['value']!r}, which is not a number",
            fix=f"sft runs --where {shlex.quote(found['name'] + '=' + found['value'])}, or write a number",
        )
    return Condition(found["name"], sign, value, text.strip())


def _value(text: str) -> float | str | bool | None:
    """Return a typed value: a number, true, false, none, or the text without quotes."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in _NAMED_VALUES:
        return _NAMED_VALUES[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


def _is_plain(value: Any) -> bool:
    """Return whether a value can be compared with a typed one; lists and mappings are compared as text."""
    return value is None or isinstance(value, str | int | float | bool)
