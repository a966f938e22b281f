"""The valid keys, and which of them a wrong one was probably meant to be."""

import difflib
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin

from sft_cli.config.elsewhere import ELSEWHERE, NEEDLESS
from sft_cli.config.schema import Config

ANY_NAME = "<name>"
PROBES = ["trainer", "retention", "probes"]


@dataclass(frozen=True)
class Key:
    """One valid key.

    Attributes:
        name: Dotted; ``<name>`` stands for a name the user chooses.
        kind: Its type, ``str | None`` for example.
        default: What it is when nobody sets it.
        limits: Bounds by name: ``ge``, ``gt``, ``le``, ``lt``.
        section: The dataclass it belongs to.
    """

    name: str
    kind: Any
    default: Any
    limits: Mapping[str, float]
    section: type


def limits(field: Field[Any]) -> Mapping[str, float]:
    """The bounds ``schema.number`` gave the field; none for others."""
    return field.metadata.get("limits", {})


def _keys(section: Any, prefix: str) -> Iterator[Key]:
    """The keys of a section as it is by default; inside another it may differ from what its class says."""
    for field in fields(section):
        name, default = prefix + field.name, vars(section)[field.name]
        if is_dataclass(default):
            yield from _keys(default, f"{name}.")
        elif get_origin(field.type) is dict and is_dataclass(entry := get_args(field.type)[1]):
            assert isinstance(entry, type)
            yield from _keys(entry(), f"{name}.{ANY_NAME}.")
        else:
            yield Key(name, field.type, default, limits(field), type(section))
            if get_origin(field.type) is list and is_dataclass(entry := get_args(field.type)[0]):
                assert isinstance(entry, type)
                yield from _keys(entry(), f"{name}[].")


KEYS = {key.name: key for key in _keys(Config(), "")}


def find(name: str) -> Key | None:
    """The key behind a dotted name: ``data.mix.mine.path`` finds ``data.mix.<name>.path``; None if there is none."""
    parts = name.split(".")
    if parts[:3] == PROBES and len(parts) == 5:
        parts[3] = ANY_NAME
    if parts[:2] == ["data", "mix"] and len(parts) >= 4:
        parts[2] = ANY_NAME
        above = KEYS.get(".".join(parts[:4]))
        if above is not None and holds_texts(above.kind) and len(parts) == 5:
            return Key(name, str, None, {}, above.section)
    return KEYS.get(".".join(parts))


def holds_texts(kind: Any) -> bool:
    """Whether the type is, or may be, a mapping of names to texts."""
    return any(get_origin(part) is dict and get_args(part)[1] is str for part in (kind, *get_args(kind)))


def is_text(kind: Any) -> bool:
    """Whether the type is text, with or without null."""
    return kind is str or (get_origin(kind) in (Union, types.UnionType) and str in get_args(kind))


def nearest(word: str, choices: Collection[str]) -> str | None:
    """The choice spelled most like ``word``, or None."""
    close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def _as_in(key: str, parts: list[str]) -> str:
    """The key, with the source or the place in the list that the wrong key names."""
    if parts[:2] == ["data", "mix"] and len(parts) > 3:
        return key.replace(ANY_NAME, parts[2])
    if parts[:3] == PROBES and len(parts) > 4:
        return key.replace(ANY_NAME, parts[3])
    return key.replace("[]", f".{parts[2]}") if parts[:2] == ["data", "stages"] and len(parts) > 3 else key


def advice(name: str) -> str:
    """What to do about the unknown key ``name``: the valid one it probably means, or how to list them all."""
    parts = name.split(".")
    valid = [_as_in(key, parts) for key in KEYS]
    if any(key.startswith(f"{name}.") for key in valid):
        return "`sft show --keys` lists every key"
    if (meant := ELSEWHERE.get(parts[-1])) is not None:
        return f"here it is called {_as_in(meant, parts)}"
    if (needless := NEEDLESS.get(parts[-1])) is not None:
        return needless
    if ends := [key for key in valid if "." in name and key.endswith(f".{name}")]:
        return f"did you mean {ends[0]}?"
    if {"retention", "probes"} & set(parts[:-1]) and (leaf := ".".join([*PROBES, ANY_NAME, parts[-1]])) in KEYS:
        return f"did you mean {leaf}?"
    if same := [key for key in valid if key.split(".")[-1] == parts[-1] and key.count(".") <= 1]:
        return f"did you mean {' or '.join(same)}?"
    siblings = [key for key in valid if key.rpartition(".")[0] == name.rpartition(".")[0]]
    if (meant := nearest(name, siblings) or nearest(name, valid)) is not None:
        return f"did you mean {meant}?"
    leaves = {key.split(".")[-1]: key for key in reversed(valid)}
    if (leaf := nearest(parts[-1], leaves)) is not None:
        return f"did you mean {leaves[leaf]}?"
    return "`sft show --keys` lists every key"
