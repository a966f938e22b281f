"""Suggest a valid value for a mistyped one: 0.0001 for ``0,0001``, a list for ``q_proj,v_proj``, 10% for a share of 10.

Suggestions come from the typed value alone; a default is never proposed.
"""

import math
import re
import shlex
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Union, get_args, get_origin

from sft_cli.config.files.yaml_io import write_yaml
from sft_cli.config.keys.aliases import VALUE_ALIASES
from sft_cli.utils.similar import closest_name

_YES = ("yes", "y", "on", "1", "true", "t", "enable", "enabled")
_NO = ("no", "n", "off", "0", "false", "f", "disable", "disabled")
_NOTHING = (
    "none",
    "null",
    "nil",
    "na",
    "n/a",
    "unlimited",
    "inf",
    "infinity",
    "no",
    "off",
    "false",
    "all",
    "max",
    "-1",
)
_QUOTES = "'\"`“”‘’„"
_PERCENT = re.compile(r"([-+]?\d+(?:[.,]\d+)?)(%|percent|pct)")
_POWER = re.compile(r"(?:(\d+(?:\.\d+)?)[x*·×])?10(?:\^|\*\*)\(?(-?\d+)\)?")
_THOUSANDS = re.compile(r"\d{1,3}([,'. ]\d{3})+")
_FACTORS = {"k": 1000, "m": 1_000_000}
_BARE = re.compile(r"[\w.,:/@%+=~{}\[\]-]*")
"""Characters that no shell changes, including the brackets of a list without spaces."""
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "ge": lambda value, bound: value >= bound,
    "gt": lambda value, bound: value > bound,
    "le": lambda value, bound: value <= bound,
    "lt": lambda value, bound: value < bound,
}


class Percentage(str):
    """A share written in percent."""


def in_limits(value: float, limits: Mapping[str, float]) -> bool:
    """Return whether a number is finite and within the limits of its key."""
    return math.isfinite(value) and all(_COMPARISONS[name](value, bound) for name, bound in limits.items())


def parse_percent(value: Any) -> Any:
    """Return 0.05 for ``5%``, and any other value unchanged."""
    return float(value[:-1]) / 100 if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%", value) else value


def override_word(key: str, value: Any) -> str:
    """Return ``key=value`` quoted for a shell: ``trainer.lr=1e-4``, ``'data.mix.a.columns={prompt: Ticket}'``."""
    return shell_quote(f"{key}={format_typed(value)}")


def shell_quote(text: str) -> str:
    """Return a word of a command line, in quotes where a shell would change it."""
    braces = "{" in text
    return text if _BARE.fullmatch(text) and not braces else shlex.quote(text)


def format_typed(value: Any) -> str:
    """Return a value as it is typed after ``key=``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_typed, value))}]"
    return write_yaml(value, flow=True) if isinstance(value, dict) else str(value)


def format_number(value: float) -> str:
    """Return the shortest text of a number, to 12 digits: 0.0001, 2e-5, 3."""
    text = f"{value:.12g}"
    return re.sub(r"e([+-])0+(?=\d)", lambda found: "e" + found[1].replace("+", ""), text)


def is_valid_value(kind: Any, limits: Mapping[str, float], value: Any) -> bool:
    """Return whether a key of this type accepts the value unchanged."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(is_valid_value(part, limits, value) for part in get_args(kind))
    if kind is types.NoneType or value is None:
        return kind is types.NoneType and value is None
    if get_origin(kind) is dict:
        return isinstance(value, Mapping) and all(
            is_valid_value(get_args(kind)[1], {}, entry) for entry in value.values()
        )
    if get_origin(kind) in (list, tuple):
        parts = [part for part in get_args(kind) if part is not ...]
        return (
            isinstance(value, list)
            and (get_origin(kind) is list or len(value) == len(parts))
            and all(is_valid_value(parts[0], {}, entry) for entry in value)
        )
    if not isinstance(kind, type):
        return False
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    value = parse_percent(value) if kind is float else value
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    return kind not in (int, float) or in_limits(value, limits)


def suggest_values(kind: Any, limits: Mapping[str, float], typed: Any) -> list[Any]:
    """Return up to two valid values that a wrong one may stand for, the likeliest first.

    Args:
        kind: The key's type.
        limits: The key's bounds by name: ``ge``, ``gt``, ``le``, ``lt``.
        typed: The parsed value, or its text where it could not be parsed.
    """
    suggestions: list[Any] = []
    for value in _candidates(kind, limits, typed):
        if is_valid_value(kind, limits, value) and value not in suggestions:
            suggestions.append(value)
    return suggestions[:2]


def _candidates(kind: Any, limits: Mapping[str, float], typed: Any) -> Iterator[Any]:
    """Yield values to try, of any type; ``suggest_values`` keeps the valid ones."""
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not types.NoneType]
        if len(parts) < len(get_args(kind)) and _means_null(parts, typed):
            yield None
            return
        for part in parts:
            yield from _candidates(part, limits, typed)
    elif get_origin(kind) is dict:
        yield from _mappings(get_args(kind)[1], typed)
    elif get_origin(kind) is tuple:
        yield from _tuples(kind, limits, typed)
    elif get_origin(kind) is list and get_args(kind)[0] is str:
        yield from _lists(typed)
    elif get_origin(kind) is list and isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], Enum):
        yield from _choice_lists([member.value for member in get_args(kind)[0]], typed)
    elif kind is bool:
        yield from ([True] if _plain(typed).lower() in _YES else [False] if _plain(typed).lower() in _NO else [])
    elif kind in (int, float):
        yield from _numbers(kind, limits, typed)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from suggest_choices([member.value for member in kind], typed)


def _means_null(kinds: Sequence[Any], typed: Any) -> bool:
    """Return whether a value means "no limit" for a number that may be null: none or -1; 0 may mean none at all."""
    numbers = any(kind in (int, float) for kind in kinds)
    return numbers and (_plain(typed).lower() in _NOTHING or typed is False)


def suggest_choices(values: Sequence[str], typed: Any) -> list[str]:
    """Return the names that may be meant: an alias, another spelling, or a misspelling."""
    text = _plain(typed)
    known = [name for name in VALUE_ALIASES.get(text, VALUE_ALIASES.get(text.lower(), ())) if name in values]
    if known:
        return known
    normalized = re.sub(r"[\s-]+", "_", text.lower())
    equal = [
        name
        for name in values
        if name.lower() == normalized or name.replace("_", "").lower() == normalized.replace("_", "")
    ]
    similar = equal[0] if equal else closest_name(normalized, values)
    return [similar] if similar else []


def _numbers(kind: type, limits: Mapping[str, float], typed: Any) -> Iterator[Any]:
    """Yield numbers that a text, or a number of the wrong type or size, may stand for."""
    if isinstance(typed, bool) or typed is None:
        return
    for value in [float(typed)] if isinstance(typed, int | float) else _parse_numbers(kind, _plain(typed)):
        if not math.isfinite(value):
            continue
        whole = value.is_integer()
        if kind is int:
            yield from [int(value)] if whole else [math.floor(value), math.ceil(value)]
        else:
            yield value
        if kind is float and min(limits.get("le", 2), limits.get("lt", 2)) <= 1 <= value <= 100:
            yield Percentage(f"{format_number(value)}%")
            continue
        if value < 0:
            yield int(-value) if kind is int and whole else -value
        for name in ("ge", "le"):  # the nearest valid value
            if value != 0 and name in limits and not _COMPARISONS[name](value, limits[name]) and value > 0:
                yield kind(limits[name])


def _parse_numbers(kind: type, text: str) -> Iterator[float]:
    """Yield the numbers that a text may stand for."""
    text = text.replace("−", "-").replace("–", "-").replace("_", "").replace(" ", "").strip("()=.,;:")
    if match := _PERCENT.fullmatch(text.lower()):
        yield float(match[1].replace(",", ".")) / 100
        return
    if match := _POWER.fullmatch(text):
        yield float(match[1] or 1) * 10.0 ** int(match[2])
    if match := re.fullmatch(r"(\d+)/(\d+)", text):
        yield from [int(match[1]) / int(match[2])] if int(match[2]) else []
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM])", text):
        yield float(match[1]) * _FACTORS[match[2].lower()]
        if kind is int and match[2] in "kK":
            yield float(match[1]) * 1024
    if kind is int and _THOUSANDS.fullmatch(text):
        yield float(re.sub(r"[,'.]", "", text))
    decimal = re.sub(r"^([-+]?\d*),(0+$|\d+)" if kind is float else r"^([-+]?\d+),(0+)$", r"\1.\2", text)
    for spelling in (text, decimal, re.sub(r"(?<=\d)\s*[A-Za-z]{2,}$", "", decimal)):
        try:
            yield float(spelling)
            return
        except ValueError:
            continue


def _lists(typed: Any) -> Iterator[list[str]]:
    """Yield the list that a separated text, a single text, or a list of other values may stand for."""
    if isinstance(typed, list):
        yield [format_typed(item) for item in typed]
    elif isinstance(typed, str | int | float) and not isinstance(typed, bool):
        text = _plain(typed).lstrip("=")
        if text[:1] in "[({":
            text = text.strip("[](){}")
        parts = [_plain(part).strip("[](){}") for part in re.split(r"[,;|\s]+", text)]
        yield [part for part in parts if part]


def _choice_lists(choices: Sequence[str], typed: Any) -> Iterator[list[str]]:
    """Yield the list of choices that a value may stand for; none or false is the empty list, all or true is each."""
    text = _plain(typed).lower()
    if text in ("all", *_YES):
        yield list(choices)
    elif text in (*_NOTHING, *_NO):
        yield []
    for names in _lists(typed):
        meant = [name if name in choices else next(iter(suggest_choices(choices, name)), name) for name in names]
        yield list(dict.fromkeys(meant))


def _tuples(kind: Any, limits: Mapping[str, float], typed: Any) -> Iterator[list[Any]]:
    """Yield the pair of numbers that a list or text may stand for."""
    parts = get_args(kind)
    items = typed if isinstance(typed, list) else next(_lists(typed), []) if typed is not None else []
    values = [next(iter(suggest_values(parts[0], limits, item)), item) for item in items]
    yield [item if not isinstance(item, str) else next(_parse_numbers(float, item), item) for item in values]


def _mappings(kind: Any, typed: Any) -> Iterator[dict[str, Any]]:
    """Yield the mapping of ``prompt: Ticket, completion: Reply``, with or without braces, with ``=`` or ``:``."""
    if not isinstance(typed, str):
        return
    pairs = [re.split(r"\s*[:=]\s*", part.strip(), maxsplit=1) for part in _plain(typed).strip("{}").split(",")]
    if all(len(pair) == 2 and all(pair) for pair in pairs):
        values = {_plain(name): _plain(value) for name, value in pairs}
        yield {name: next(iter(suggest_values(kind, {}, value)), value) for name, value in values.items()}


def _plain(value: Any) -> str:
    """Return a value as text, without surrounding quotes."""
    return (format_typed(value) if isinstance(value, bool) else str(value)).strip().strip(_QUOTES).strip()


def did_you_mean(key: str, values: Sequence[Any]) -> str:
    """Return a question such as ``did you mean trainer.epochs=2 or trainer.epochs=3?``."""
    return f"did you mean {' or '.join(override_word(key, value) for value in values)}?"


def suggest_positive(name: str, text: str, *, whole: bool = False) -> str:
    """Return the fix for an option of a command that must be a number above 0."""
    suggestions = suggest_values(int if whole else float, {"ge": 1} if whole else {"gt": 0}, text)
    noun = "a whole number of at least 1" if whole else "a number above 0"
    return did_you_mean(name, suggestions) if suggestions else f"write {noun}, or remove {name}"
