"""The valid keys, and suggestions for unknown ones."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.keys import translate
from sft_cli.config.keys.aliases import KEY_ALIASES, RENAMED
from sft_cli.config.keys.typos import is_valid_value, override_word, suggest_values
from sft_cli.config.keys.unsupported import unsupported_reason
from sft_cli.config.schema.config import Config
from sft_cli.utils.similar import closest_name, distance_if_similar

__all__ = ["KEYS", "Key", "field_limits", "find_key", "is_text", "is_text_mapping", "suggest_key"]

ANY_NAME = "<name>"
SOURCE = "local"
"""Name of a source of rows in suggestions."""
PROBES = ["trainer", "retention", "probes"]
SUITES = ["eval", "suites"]


@dataclass(frozen=True)
class Key:
    """One valid key.

    Attributes:
        name: The dotted name; ``<name>`` is a placeholder for a name the user chooses.
        kind: The type, for example ``str | None``.
        default: Its value when it is not set.
        limits: Bounds by name: ``ge``, ``gt``, ``le``, ``lt``.
        section: The dataclass it belongs to.
    """

    name: str
    kind: Any
    default: Any
    limits: Mapping[str, float]
    section: type


def field_limits(field: Field[Any]) -> Mapping[str, float]:
    """Return the bounds that ``schema.bounded`` gave the field; none for other fields."""
    return field.metadata.get("limits", {})


def _keys(section: Any, prefix: str) -> Iterator[Key]:
    """Yield the keys of a section, with the defaults of this instance, which may differ from those of its class."""
    for field in fields(section):
        name, default = prefix + field.name, vars(section)[field.name]
        if is_dataclass(default):
            yield from _keys(default, f"{name}.")
        elif get_origin(field.type) is dict and is_dataclass(entry := get_args(field.type)[1]):
            assert isinstance(entry, type)
            yield from _keys(entry(), f"{name}.{ANY_NAME}.")
        else:
            yield Key(name, field.type, default, field_limits(field), type(section))
            if get_origin(field.type) is list and is_dataclass(entry := get_args(field.type)[0]):
                assert isinstance(entry, type)
                yield from _keys(entry(), f"{name}[].")


KEYS = {key.name: key for key in _keys(Config(), "")}


def find_key(name: str) -> Key | None:
    """Return the key of a dotted name, ``data.mix.<name>.path`` for ``data.mix.mine.path``; None if there is none."""
    parts = name.split(".")
    if parts[:3] == PROBES and len(parts) == 5:
        parts[3] = ANY_NAME
    if parts[:2] in (["data", "mix"], SUITES) and len(parts) >= 4:
        parts[2] = ANY_NAME
        parent = KEYS.get(".".join(parts[:4]))
        if parent is not None and is_text_mapping(parent.kind) and len(parts) == 5:
            return Key(name, str, None, {}, parent.section)
    name = ".".join(parts)
    parent = KEYS.get(name.rpartition(".")[0])
    if name not in KEYS and parent is not None and get_origin(parent.kind) is dict:
        return Key(name, get_args(parent.kind)[1], None, {}, parent.section)
    return KEYS.get(name)


def is_text_mapping(kind: Any) -> bool:
    """Return whether the type is, or may be, a mapping of names to texts."""
    return any(get_origin(part) is dict and get_args(part)[1] is str for part in (kind, *get_args(kind)))


def is_text(kind: Any) -> bool:
    """Return whether the type is text, with or without null; a type that also accepts booleans is not."""
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return str in parts and bool not in parts


def _with_names_of(key: str, parts: list[str], source: str = ANY_NAME) -> str:
    """Return the key with the source name or list index of the wrong key in place of its placeholder."""
    if parts[:2] in (["data", "mix"], SUITES) and len(parts) > 3:
        return key.replace(ANY_NAME, parts[2])
    if parts[:3] == PROBES and len(parts) > 4:
        return key.replace(ANY_NAME, parts[3])
    key = key.replace("[]", f".{parts[2]}") if parts[:2] == ["data", "stages"] and len(parts) > 3 else key
    return key if key.startswith(".".join(PROBES)) else key.replace(ANY_NAME, source)


def suggest_key(name: str, value: Any = "") -> str:
    """Return the fix for the unknown key ``name``: the key it means, with the typed value, or an alternative."""
    parts = name.split(".")
    source = parts[2] if parts[:2] == ["data", "mix"] and len(parts) > 3 else SOURCE
    normalized = name.lower().replace("-", "_").replace("/", ".").replace(":", ".").strip(".")
    if normalized != name and (find_key(normalized) or normalized in GROUPS):
        return _did_you_mean([normalized], value)
    return (
        _translate_alias(parts, value, source)
        or _suggest_similar(name, parts, value)
        or _no_suggestion(name, parts, value)
    )


def _translate_alias(parts: list[str], value: Any, source: str) -> str | None:
    """Return the counterpart of another tool's key, or why there is none; None for an unknown key."""
    leaf = parts[-1].lower().replace("-", "_")
    if leaf in translate.BATCH:
        return translate.translate_batch_size({leaf: value})
    if leaf == "run" and value and (Path(str(value)) / "config.yaml").is_file():
        return f"the settings of a run are a recipe: write {override_word('recipe', f'{value}/config.yaml')}"
    if (answer := translate.translate_by_value(leaf, value, source)) is not None:
        return answer
    if (counterpart := RENAMED.get(".".join(parts)) or KEY_ALIASES.get(leaf)) is not None:
        key, equals, constant = _with_names_of(counterpart, parts, ANY_NAME).partition("=")
        if value is None and not equals:
            return f"remove it, since it has no value; here it is called {key}"
        if equals:
            return translate.translate_constant(f"{key}={constant}".replace(ANY_NAME, source), value)
        return f"here it is called {key}{_write_it(key.replace(ANY_NAME, source), value)}"
    return unsupported_reason(leaf)


def _suggest_similar(name: str, parts: list[str], value: Any) -> str | None:
    """Return the key that a name misspells, or whose last part it is; None without one.

    A key of another section is suggested only if it accepts the value.
    """
    if len(parts) == 1 and closest_name(name, ("recipe",)):
        return f"did you mean {override_word('recipe', value)}?"
    if len(parts) == 1 and isinstance(value, str) and translate.DATA_FILE.fullmatch(value):
        return f"for rows write {override_word(f'data.mix.{SOURCE}.path', value)}"
    valid = [_with_names_of(key, parts, SOURCE) for key in KEYS]
    nested = ".".join(["data", "mix", SOURCE, *parts[1:]])
    if parts[0] == "data" and find_key(nested) and nested in valid:
        return _did_you_mean([nested], value)
    if matches := [key for key in valid if "." in name and key.endswith(f".{name}")]:
        return _did_you_mean(matches[:1], value)
    if {"retention", "probes"} & set(parts[:-1]) and (leaf := ".".join([*PROBES, ANY_NAME, parts[-1]])) in KEYS:
        return _did_you_mean([leaf], value)
    siblings = [key for key in valid if key.rpartition(".")[0] == name.rpartition(".")[0]]
    if (similar := closest_name(name, [*siblings, *GROUPS])) is not None:
        return _did_you_mean([similar], value)
    accepting = [key for key in valid if _accepts(key, value)]
    if equal := [key for key in accepting if key.split(".")[-1] == parts[-1] and key.count(".") <= 1]:
        return _did_you_mean(equal, value)
    if (similar := closest_name(name, accepting)) is not None:
        return _did_you_mean([similar], value)
    leaves = [
        (distance, key)
        for key in accepting
        if (distance := distance_if_similar(parts[-1], key.split(".")[-1])) is not None
    ]
    return _did_you_mean([min(leaves, key=lambda pair: (pair[0], pair[1].count(".")))[1]], value) if leaves else None


def _no_suggestion(name: str, parts: list[str], value: Any) -> str:
    """Return the fix for a key that is similar to no valid key."""
    if any(key.startswith(f"{name}.") for key in KEYS):
        return f"it is a section with keys: sft show --keys {name}"
    if len(parts) > 1 and any(key.startswith(f"{parts[0]}.") for key in KEYS):
        return f"remove it; list the keys of the section: sft show --keys {parts[0]}"
    return "remove it; `sft show --keys` lists every key"


def _accepts(key: str, value: Any) -> bool:
    """Return whether a key accepts the value or one it may stand for; true where the value or the key is unknown."""
    known = find_key(key) or KEYS.get(key)
    return (
        known is None or value == "" or is_valid_value(known.kind, known.limits, value) or bool(_values(known, value))
    )


def _values(key: Key, value: Any) -> list[Any]:
    return suggest_values(key.kind, key.limits, value)


def _write_it(key: str, value: Any) -> str:
    """Return ``: write trainer.lr=1e-4``, if the key accepts the typed value or one that it may stand for."""
    known = find_key(key) or KEYS.get(key)
    if known is None or value == "" or ANY_NAME in key:
        return ""
    if is_valid_value(known.kind, known.limits, value):
        return f": write {override_word(key, value)}"
    if isinstance(value, Mapping) or not (suggestions := _values(known, value)):
        return ""
    return f": write {' or '.join(override_word(key, suggestion) for suggestion in suggestions)}"


def _did_you_mean(keys: list[str], value: Any) -> str:
    """Return ``did you mean trainer.lr=1e-4?`` for the first two keys."""
    shown = [_write_it(key, value).removeprefix(": write ") or key for key in keys[:2]]
    return f"did you mean {' or '.join(shown)}?"
