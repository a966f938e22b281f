"""Expand words with several values, ``trainer.lr=1e-4,2e-4``, into one command line per member."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_origin

from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.files.search_path import GROUPS, search_path
from sft_cli.config.keys.valid_keys import find_key, is_text
from sft_cli.config.overrides.grammar import parse_sweep
from sft_cli.config.overrides.parse import OverrideError
from sft_cli.errors import SftError, raise_all

MOST = 1000
"""Most members of a sweep; a larger number is probably a mistyped range."""


@dataclass(frozen=True)
class SweepOverrides:
    """The members of a sweep, from a command line with several values.

    Attributes:
        keys: The swept keys and groups, in the order they were typed.
        members: For each member the words of ``sft train``, in the order they were typed.
        values: For each member its value of each of ``keys``, as it would be typed.
    """

    keys: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]


def expand_sweep(words: Sequence[str], config_dirs: Sequence[str] = ()) -> SweepOverrides:
    """Return every combination of the values; the key typed last changes fastest.

    Words that are not ``key=value`` are kept: composing them raises an error.

    Raises:
        SftError: No word has several values, a sweep cannot be listed, or there are more than ``MOST`` members.
    """
    kept = _drop_overridden(words)
    options = {group: tuple(names) for group, names in search_path(config_dirs).options.items()}
    swept: dict[int, list[str]] = {}
    mistakes: list[SftError] = []
    for place, word in enumerate(kept):
        try:
            values = _values(word, options)
        except OverrideError as error:
            key = word.partition("=")[0]
            mistakes.append(SftError(where=COMMAND_LINE, problem=f"{word}: {error}", fix=f"write {key}=VALUE,VALUE"))
            continue
        if values is not None:
            swept[place] = values
            mistakes += _check_values(word, values)
    raise_all(mistakes)
    if not swept:
        raise SftError(
            where=COMMAND_LINE,
            problem="no word has several values, so there is nothing to sweep over",
            fix="for one run type sft train; for a sweep give a key several values, as in trainer.lr=1e-4,2e-4",
        )
    _check_size({kept[place].partition("=")[0]: values for place, values in swept.items()})
    combinations = tuple(product(*swept.values()))
    return SweepOverrides(
        keys=tuple(kept[place].partition("=")[0] for place in swept),
        members=tuple(_with_values(kept, dict(zip(swept, values, strict=True))) for values in combinations),
        values=combinations,
    )


def _drop_overridden(words: Sequence[str]) -> list[str]:
    """Return the words without those whose key is set again later."""
    last = {word.partition("=")[0]: place for place, word in enumerate(words)}
    return [word for place, word in enumerate(words) if last[word.partition("=")[0]] == place]


def _with_values(words: Sequence[str], values: Mapping[int, str]) -> tuple[str, ...]:
    """Return the words with one value in place of each swept one."""
    return tuple(
        f"{word.partition('=')[0]}={values[place]}" if place in values else word for place, word in enumerate(words)
    )


def _values(word: str, options: Mapping[str, Collection[str]]) -> list[str] | None:
    """Return the swept values of a word; None for a single value, or a text that the grammar cannot parse."""
    key, equals, text = word.partition("=")
    if not equals:
        return None
    try:
        return parse_sweep(text.strip(), options.get(key, ()), MOST)
    except OverrideError:
        known = find_key(key)
        sweeping = text.startswith(("interval(", "shuffle("))
        if sweeping or (key not in (*GROUPS, "recipe") and known is not None and not is_text(known.kind)):
            raise
        return None


def _check_values(word: str, values: Sequence[str]) -> list[SftError]:
    """Return the mistakes in the values of one sweep: none, one twice, or texts for a key that takes lists."""
    key, _, text = word.partition("=")
    if not values:
        return [SftError(where=COMMAND_LINE, problem=f"{word} has no value", fix=f"write {key}=VALUE,VALUE")]
    known = find_key(key)
    texts = [value for value in values if not value.startswith("[")]
    if known is not None and get_origin(known.kind) is list and texts:
        lists = ",".join(f"[{value}]" for value in values)
        return [
            SftError(
                where=COMMAND_LINE,
                problem=f"{word} sweeps over {len(values)} values, but {key} is a list",
                fix=f'write "{key}=[{text}]" for one list, or "{key}={lists}" for a sweep over {len(values)}',
            )
        ]
    once = f"{key}={','.join(dict.fromkeys(values))}"
    repeated = sorted({value for value in values if values.count(value) > 1})
    return [
        SftError(where=COMMAND_LINE, problem=f"{word} names {value} twice", fix=f"write {once}") for value in repeated
    ]


def _check_size(swept: Mapping[str, Sequence[str]]) -> None:
    """Refuse a sweep with more than ``MOST`` members."""
    if (number := math.prod(len(values) for values in swept.values())) > MOST:
        counts = " x ".join(f"{len(values):,} of {key}" for key, values in swept.items())
        longest = max(swept, key=lambda key: len(swept[key]))
        least = " at least" if any(len(values) > MOST for values in swept.values()) else ""
        raise SftError(
            where=COMMAND_LINE,
            problem=f"a sweep has at most {MOST:,} members, and this one has{least} {number:,}: {counts}",
            fix=f"give fewer values, as in {longest}={','.join(swept[longest][:2])}, in several sweeps",
        )
