"""A plain mapping -> Config, and back. Unknown keys, wrong types, values outside their limits: all are told at once."""

import copy
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple, Union, get_args, get_origin

from sft_cli.config.elsewhere import VALUES_ELSEWHERE
from sft_cli.config.fields import Auto
from sft_cli.config.names import advice, limits, nearest
from sft_cli.config.schema import Config

_PERCENT = re.compile(r"\d+(\.\d+)?%")
_OPEN, _KEPT_OPEN = "???", "left open: ???"
SPOKEN = 300
"""Characters of a wrong value that a sentence repeats."""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Mistake(NamedTuple):
    """A wrong key or value.

    Attributes:
        key: Dotted.
        problem: What is wrong, beginning with the key.
        fix: What to write.
        clash: The other key of a pair that does not fit together, or empty.
    """

    key: str
    problem: str
    fix: str
    clash: str = ""


def build(values: Mapping[Any, Any]) -> tuple[Config | None, list[Mistake]]:
    """The typed config and no mistakes, or None and every mistake in the order of the keys."""
    found: list[Mistake] = []
    config = _section(Config, values, "", found)
    return (None, found) if found else (config, found)


def as_plain(value: Any) -> Any:
    """A config, or a part of one, as dicts, lists, names and numbers: the inverse of ``build``."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_plain(asdict(value))
    if isinstance(value, dict):
        return {name: as_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(entry) for entry in value]
    return value.value if isinstance(value, Enum) else value


def kept_open(value: Any) -> Any:
    """The values of a recipe, ``???`` spelled otherwise: merging takes it for no value and would keep the default."""
    if isinstance(value, dict):
        return {name: kept_open(entry) for name, entry in value.items()}
    return _KEPT_OPEN if value == _OPEN else value


def _section(section: type, values: Any, prefix: str, found: list[Mistake]) -> Any:
    """An instance of the dataclass; meaningless once ``found`` is not empty."""
    if not isinstance(values, Mapping):
        name = prefix.removesuffix(".")
        found.append(Mistake(name, f"{name} is {spoken(values)}; it holds keys of its own", _section_fix(name, values)))
        return section()
    known = {field.name: field for field in fields(section)}
    arguments = {}
    for name, value in values.items():
        if name in known:
            arguments[name] = _value(known[name], known[name].type, value, prefix + name, found)
        else:
            unknown = leaves(value, f"{prefix}{name}")
            found += [Mistake(key, f"there is no key {key}", advice(key)) for key in unknown]
    return section(**arguments)


def _section_fix(name: str, value: Any) -> str:
    if name.startswith("data.mix.") and isinstance(value, str):
        return f"write {name}.path={value}"
    if name.startswith("data.stages."):
        return "write each stage as {name: first, share: 1}"
    if isinstance(value, str) and "." not in name:
        return f"to choose an option in a recipe, write `- override /{name}: {value}` below `defaults:`"
    return f"indent the keys of {name} below it, or leave it out"


def _value(field: Field[Any], kind: Any, value: Any, key: str, found: list[Mistake]) -> Any:
    """The value as the type ``kind`` wants it; None, with a mistake noted, if it does not fit."""
    if value in (_OPEN, _KEPT_OPEN):
        found.append(Mistake(key, f"{key} is ???: its value is left to you", f"set {key}=<value>"))
        return None
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _section(kind, value, f"{key}.", found)
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and types.NoneType in get_args(kind):
            return None
        kind = _alternative([part for part in get_args(kind) if part is not types.NoneType], value)
    if get_origin(kind) is dict:
        return _entries(field, get_args(kind)[1], value, key, found)
    if get_origin(kind) in (list, tuple):
        return _items(field, kind, value, key, found)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choice(kind, value, key, found)
    return _scalar(field, kind, value, key, found)


def _alternative(kinds: Sequence[Any], value: Any) -> Any:
    """Which of the types of a union the value is meant for: the first, unless it is plainly another."""
    if Auto in kinds:
        return Auto if value == Auto.auto.value else next(kind for kind in kinds if kind is not Auto)
    fitting = [kind for kind in kinds if isinstance(value, get_origin(kind) or kind)]
    return fitting[0] if fitting else kinds[0]


def _entries(field: Field[Any], kind: Any, value: Any, key: str, found: list[Mistake]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        found.append(Mistake(key, f"{key} is {spoken(value)}; it maps names to values", f"write {key}.<name>=<value>"))
        return {}
    return {str(name): _value(field, kind, entry, f"{key}.{name}", found) for name, entry in value.items()}


def _items(field: Field[Any], kind: Any, value: Any, key: str, found: list[Mistake]) -> Any:
    container = get_origin(kind)
    parts = [part for part in get_args(kind) if part is not ...]
    if not isinstance(value, list) or (container is tuple and len(value) != len(parts)):
        wanted = f"a list of {len(parts)} values" if container is tuple else "a list"
        found.append(
            Mistake(
                key,
                f"{key} is {spoken(value)}; it must be {wanted}",
                f"write {key}=[{value}]"
                if container is list and isinstance(value, str) and value
                else f"write a value such as {key}={_example(field)}",
            )
        )
        return container()
    return container(_value(field, parts[0], entry, f"{key}.{place}", found) for place, entry in enumerate(value))


def _choice(kind: type[Enum], value: Any, key: str, found: list[Mistake]) -> Enum | None:
    choices = [member.value for member in kind]
    if value in choices:
        return kind(value)
    known = [name for name in VALUES_ELSEWHERE.get(str(value), ()) if name in choices]
    meant = " or ".join(known) or nearest(str(value), choices)
    hint = f"did you mean {meant}? " if meant else ""
    problem = f"{key} is {spoken(value)}, which is not one of its values"
    found.append(Mistake(key, problem, f"{hint}choose one of {', '.join(choices)}"))
    return None


def _scalar(field: Field[Any], kind: type, value: Any, key: str, found: list[Mistake]) -> Any:
    """A bool, int, float or str within its limits. An int is a float, too; nothing else is converted."""
    value = _fraction(value) if kind is float else value
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        fix = (
            f'write "{value}", with the quotes'
            if kind is str and not isinstance(value, list | Mapping | None)
            else (f"write a value such as {key}={_example(field)}")
        )
        found.append(Mistake(key, f"{key} is {spoken(value)}; it must be {_NOUNS[kind]}{_or_auto(field)}", fix))
        return None
    if kind in (int, float):
        bounds = limits(field)
        if not math.isfinite(value) or not all(_holds(value, name, bound) for name, bound in bounds.items()):
            wanted = " and ".join(f"{_BOUNDS[name]} {bound}" for name, bound in bounds.items()) or "finite"
            found.append(
                Mistake(key, f"{key} is {value}; it must be {wanted}", f"write a value such as {key}={_example(field)}")
            )
            return None
    return kind(value)


def _or_auto(field: Field[Any]) -> str:
    """What else the field takes beside a number."""
    return ", or auto" if Auto in get_args(field.type) else ""


def _fraction(value: Any) -> Any:
    """0.05 for ``5%``; anything else as it is."""
    return float(value[:-1]) / 100 if isinstance(value, str) and _PERCENT.fullmatch(value) else value


def _holds(value: float, name: str, bound: float) -> bool:
    return {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[name]


_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _example(field: Field[Any]) -> str:
    """The default as one types it; a value within the limits where the default is null."""
    default = as_plain(field.default_factory() if callable(field.default_factory) else field.default)
    if default is None:
        return "5%" if limits(field).get("le") == 1 else "1"
    if is_dataclass(entry := (get_args(field.type) or (None,))[0]):
        return f"[{{{fields(entry)[0].name}: first}}, {{{fields(entry)[0].name}: second}}]"
    if isinstance(default, dict):
        return "1"
    if isinstance(default, list):
        return f"[{','.join(map(str, default))}]"
    return spoken(default).strip("'")


def spoken(value: Any) -> str:
    """The value as a sentence names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    text = f"'{value}'" if isinstance(value, str) else f"the list {value}" if isinstance(value, list) else str(value)
    return text if len(text) <= SPOKEN else f"{text[:SPOKEN]}…"


def merge_at(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value below a dotted path; mappings are merged, all else is replaced."""
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    if isinstance(value, dict) and isinstance(values.get(path[-1]), dict):
        for name, entry in value.items():
            merge_at(values[path[-1]], [str(name)], entry)
    else:
        values[path[-1]] = copy.deepcopy(value)


def leaves(value: Any, prefix: str) -> Iterator[str]:
    """The dotted keys of a value that stands at ``prefix``: its own, or those inside it if it is a mapping."""
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from leaves(entry, f"{prefix}.{name}")
    else:
        yield prefix
