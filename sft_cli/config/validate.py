"""Convert a plain mapping into a typed ``Config`` and back; report all unknown keys and invalid values at once."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple, Union, get_args, get_origin

from sft_cli.config.keys import translate
from sft_cli.config.keys.typos import (
    did_you_mean,
    format_typed,
    in_limits,
    override_word,
    parse_percent,
    suggest_values,
)
from sft_cli.config.keys.unsupported import unsupported_reason
from sft_cli.config.keys.valid_keys import field_limits, suggest_key
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.utils.mappings import flatten

MISSING = "???"
"""A value that the user must set."""
MAX_SHOWN = 300
"""Most characters of a wrong value that a message repeats."""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class ConfigError(NamedTuple):
    """A wrong key or value.

    Attributes:
        key: The dotted key.
        problem: Description of the error, beginning with the key.
        fix: Text to write instead.
        clash: The other key of a pair that does not fit together, or an empty text.
    """

    key: str
    problem: str
    fix: str
    clash: str = ""


class Unknown(NamedTuple):
    """An unknown key with its value."""

    key: str
    value: Any


Errors = list[ConfigError | Unknown]


def from_plain(values: Mapping[Any, Any]) -> tuple[Config | None, list[ConfigError]]:
    """Return the typed config and no errors, or None and every error in the order of the keys."""
    errors: Errors = []
    config = _section(Config, values, "", errors)
    return (None, _with_fixes(errors)) if errors else (config, [])


def to_plain(value: Any) -> Any:
    """Return a config, or a part of one, as dicts, lists, texts and numbers: the inverse of ``from_plain``."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, dict):
        return {name: to_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return value.value if isinstance(value, Enum) else value


def _with_fixes(errors: Errors) -> list[ConfigError]:
    """Return the errors, with a fix for each unknown key; keys that form one setting share one error."""
    unknown = [error for error in errors if isinstance(error, Unknown)]
    batch = {error.key: error.value for error in unknown if _leaf(error.key) in translate.BATCH}
    mistakes: list[ConfigError] = []
    for error in errors:
        key = error.key
        if isinstance(error, ConfigError):
            mistakes.append(error)
        elif key not in batch:
            mistakes.append(ConfigError(key, f"there is no key {key}", suggest_key(key, error.value)))
        elif key == next(iter(batch)):
            names = ", and no key ".join(batch)
            mistakes.append(ConfigError(key, f"there is no key {names}", translate.translate_batch_size(batch)))
    return mistakes


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _section(section: type, values: Any, prefix: str, errors: Errors) -> Any:
    """Return an instance of the dataclass; it is only valid while ``errors`` is empty."""
    if not isinstance(values, Mapping):
        name = prefix.removesuffix(".")
        fix = _section_fix(section, name, values)
        errors.append(ConfigError(name, f"{name} is {format_value(values)}; it is a section with keys", fix))
        return section()
    known = {field.name: field for field in fields(section)}
    arguments = {}
    for name, value in values.items():
        if name in known:
            arguments[name] = _value(known[name], known[name].type, value, prefix + name, errors)
        elif name in translate.SECTIONS or unsupported_reason(str(name)):
            errors.append(Unknown(f"{prefix}{name}", value))
        else:
            errors += [Unknown(key, entry) for key, entry in flatten(value, f"{prefix}{name}", keep_empty=True)]
    return section(**arguments)


def _section_fix(section: type, name: str, value: Any) -> str:
    """Return the fix for a value that is not a section."""
    if name.startswith("data.mix.") and isinstance(value, str):
        return f"write {override_word(f'{name}.path', value)}"
    if name.startswith("data.stages."):
        return "write each stage as {name: first, share: 1}"
    kinds = [(field.name, field.type) for field in fields(section)]
    suited = [own for own, kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) and value in list(kind)]
    if suited:
        return f"did you mean {override_word(f'{name}.{suited[0]}', value)}?"
    return f"set one of its keys (sft show --keys {name}), or remove {name}"


def _value(field: Field[Any], kind: Any, value: Any, key: str, errors: Errors) -> Any:
    """Return the value converted to the type ``kind``; add an error and return None if it does not fit."""
    if value == MISSING:
        errors.append(ConfigError(key, f"{key} is ???: it has no value yet", f"set {key}=VALUE"))
        return None
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _section(kind, value, f"{key}.", errors)
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and types.NoneType in get_args(kind):
            return None
        kind = _alternative([part for part in get_args(kind) if part is not types.NoneType], value)
    if get_origin(kind) is dict:
        return _entries(field, get_args(kind)[1], value, key, errors)
    if get_origin(kind) in (list, tuple):
        return _items(field, kind, value, key, errors)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choice(field, kind, value, key, errors)
    return _scalar(field, kind, value, key, errors)


def _alternative(kinds: Sequence[Any], value: Any) -> Any:
    """Return the member of a union that the value is meant for: the first, unless it clearly fits another."""
    if Auto in kinds:
        return Auto if value == Auto.auto.value else next(kind for kind in kinds if kind is not Auto)
    fitting = [kind for kind in kinds if isinstance(value, get_origin(kind) or kind)]
    return fitting[0] if fitting else kinds[0]


def _entries(field: Field[Any], kind: Any, value: Any, key: str, errors: Errors) -> dict[str, Any]:
    """Return the converted mapping; add an error if the value is not a mapping."""
    if not isinstance(value, Mapping):
        problem, meant = (
            f"{key} is {format_value(value)}; it maps names to values",
            suggest_values(field.type, {}, value),
        )
        errors.append(
            ConfigError(key, problem, did_you_mean(key, meant) if meant else f"write '{key}={{name: value}}'")
        )
        return {}
    return {str(name): _value(field, kind, entry, f"{key}.{name}", errors) for name, entry in value.items()}


def _items(field: Field[Any], kind: Any, value: Any, key: str, errors: Errors) -> Any:
    """Return the converted list or tuple; add an error if the value is not a list of the right length."""
    container = get_origin(kind)
    parts = [part for part in get_args(kind) if part is not ...]
    if not isinstance(value, list) or (container is tuple and len(value) != len(parts)):
        wanted = f"a list of {len(parts)} values" if container is tuple else "a list"
        errors.append(_wrong(field, kind, value, key, f"{key} is {format_value(value)}; it must be {wanted}"))
        return container()
    if (
        parts[0] is str
        and not all(isinstance(entry, str) for entry in value)
        and (meant := suggest_values(kind, {}, value))
    ):
        # texts such as 3 and true, which YAML does not read as text
        return meant[0]
    return container(_value(field, parts[0], entry, f"{key}.{place}", errors) for place, entry in enumerate(value))


def _choice(field: Field[Any], kind: type[Enum], value: Any, key: str, errors: Errors) -> Enum | None:
    """Return the enum member of the value; add an error if there is none."""
    choices = [member.value for member in kind]
    if value in choices:
        return kind(value)
    meant = suggest_values(kind, {}, value)
    hint = (
        f"{did_you_mean(key, meant)} " if meant else "" if not isinstance(value, Mapping) else f"{_inner(key, value)}; "
    )
    if meant and key.rpartition(".")[2].isdigit():  # an item of a list: the command line accepts no key with an index
        hint = f"write {meant[0]} in place of {format_value(value)}; "
    problem = f"{key} is {format_value(value)}, which is not one of its values"
    left_out = "" if meant else f", or remove {key}{_default(field)}"
    errors.append(ConfigError(key, problem, f"{hint}choose one of {', '.join(choices)}{left_out}"))
    return None


def _scalar(field: Field[Any], kind: type, value: Any, key: str, errors: Errors) -> Any:
    """Return a bool, int, float or str within its limits. An int is accepted as a float; nothing else is converted."""
    value = parse_percent(value) if kind is float else value
    if not (type(value) is kind or (kind is float and type(value) is int)):
        if kind is str and not isinstance(value, list | Mapping | None):
            fix = f'write `{_leaf(key)}: "{value}"`, with the quotes'
            errors.append(ConfigError(key, f"{key} is {format_value(value)}; it must be text", fix))
        else:
            errors.append(
                _wrong(
                    field,
                    kind,
                    value,
                    key,
                    f"{key} is {format_value(value)}; it must be {_NOUNS[kind]}{_or_auto(field)}",
                )
            )
        return None
    if kind in (int, float) and not in_limits(value, field_limits(field)):
        bounds = _bounds(field) or "finite"
        errors.append(_wrong(field, kind, value, key, f"{key} is {value}; it must be {bounds}"))
        return None
    return kind(value)


def _or_auto(field: Field[Any]) -> str:
    """Return ``, or auto`` for a field that also accepts ``auto``."""
    return ", or auto" if Auto in get_args(field.type) else ""


def _wrong(field: Field[Any], kind: Any, value: Any, key: str, problem: str) -> ConfigError:
    """Return the error for a value that does not fit; the fix is a similar valid value, or the expected type."""
    # An item of a list is corrected on its own: its key has an index, which the command line does not accept.
    if isinstance(value, Mapping):
        if get_origin(kind) is list and all(str(place).isdigit() for place in value):
            return ConfigError(key, problem, f"write the whole list: {override_word(key, list(value.values()))}")
        if inner := _inner(key, value):
            return ConfigError(key, problem, inner)
    whole = field.type if key.rpartition(".")[2] == field.name else kind
    if meant := suggest_values(whole, field_limits(field), value):
        return ConfigError(key, problem, did_you_mean(key, meant))
    wanted = f"write {_noun(kind)}"
    if kind in (int, float) and (bounds := _bounds(field)):
        wanted += f" {bounds}" if bounds.startswith(("above", "below")) else f" of {bounds}"
    return ConfigError(key, problem, f"{wanted}, or remove {key}{_default(field)}")


def _inner(key: str, value: Mapping[Any, Any]) -> str:
    """Return the fixes for keys below a key that takes none."""
    entries = list(flatten(value, key, keep_empty=True))
    return "; ".join(suggest_key(name, entry) for name, entry in entries[:3]) if entries[0][0] != key else ""


def _noun(kind: Any) -> str:
    """Return the type of a value in words."""
    if get_origin(kind) in (list, tuple):
        return "a list such as [a,b]" if get_origin(kind) is list else "two numbers such as [0.9,0.95]"
    return _NOUNS.get(kind, "one of its values")


def _bounds(field: Field[Any]) -> str:
    """Return ``at least 0 and below 1``; an empty text for a number without limits."""
    return " and ".join(f"{_BOUNDS[name]} {bound}" for name, bound in field_limits(field).items())


_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _default(field: Field[Any]) -> str:
    """Return `` (default: 16)``; an empty text for a default that is empty or null."""
    value = to_plain(field.default_factory() if callable(field.default_factory) else field.default)
    return "" if value in (None, [], {}) else f" (default: {format_typed(value)})"


def format_value(value: Any) -> str:
    """Return the value as a message names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    text = f"'{value}'" if isinstance(value, str) else f"the list {value}" if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
