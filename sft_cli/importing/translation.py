"""The translation of a config: what each key became, and the values of the recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sft_cli.config.files.yaml_io import parse_yaml_value
from sft_cli.config.keys.aliases import KEY_ALIASES
from sft_cli.config.keys.typos import format_typed, is_valid_value, suggest_values
from sft_cli.config.keys.unsupported import UNSUPPORTED, unsupported_reason
from sft_cli.config.keys.valid_keys import Key, find_key
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import to_plain
from sft_cli.errors import SftError
from sft_cli.importing.foreign_config import ForeignConfig
from sft_cli.utils.mappings import flatten, merge_at
from sft_cli.utils.similar import closest_name


class Outcome(Enum):
    """What became of a key."""

    translated = "translated"
    changed = "translated with another value"
    default = "equal to the default"
    none = "no equal"
    empty = "empty"
    implied = "implied"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one key, or of several keys together.

    Attributes:
        keys: Keys of the other tool, as they are written; for ``implied`` those whose default it is.
        outcome: What became of them.
        ours: ``key=value`` words of the recipe, none without an equal.
        reason: Why the value is another one, or why there is no equal.
    """

    keys: tuple[str, ...]
    outcome: Outcome
    ours: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Translation:
    """The recipe under construction.

    Attributes:
        config: The config that is translated.
        defaults: Defaults of the other tool for keys that its config does not set.
        gpus: Number of GPUs of a step.
        rows: Number of training rows; None where it is not known.
        row_tokens: Mean length of a row in tokens; None where it is not known.
        values: Nested values of the recipe.
        choices: Group -> option.
        comments: Our key -> the keys it came from.
        entries: What became of the keys, in the order of the config.
        texts: Files that the recipe names: ending -> content.
        questions: Keys of ours that the user must set, as ``key=VALUE``.
    """

    config: ForeignConfig
    defaults: Mapping[str, Any]
    gpus: int = 1
    rows: int | None = None
    row_tokens: int | None = None
    values: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    _read: set[str] = field(default_factory=set)

    def get(self, key: str) -> Any:
        """Return the value of a key of the config, or the other tool's default; None without either."""
        value = self.config.values.get(key)
        return self.defaults.get(key) if value is None else value

    def number(self, key: str) -> float | None:
        """Return the number of a key, also of a text such as 1e-4; None without a value.

        Raises:
            SftError: The value is no finite number.
        """
        value = self.get(key)
        return None if value is None or value == "" else self.as_number(value, key)

    def as_number(self, value: Any, key: str) -> float:
        """Return a value as a number; whole ones are of type int.

        Raises:
            SftError: The value is no finite number.
        """
        typed = parse_yaml_value(value) if isinstance(value, str) else value
        if isinstance(typed, bool) or not isinstance(typed, int | float) or not math.isfinite(typed):
            problem = f"{key} is {value!r}; it must be a number"
            raise SftError(where=self.config.name, problem=problem, fix=f"write a number, or remove {key}")
        return typed

    def has(self, key: str) -> bool:
        """Return whether the config sets the key to a value."""
        return self.config.values.get(key) is not None

    def set(self, ours: str, value: Any, *keys: str, why: str = "") -> None:
        """Set a key of the recipe, and record from which keys its value comes.

        Args:
            ours: Our dotted key.
            value: Its value.
            keys: The keys of the config that it comes from.
            why: The reason for another value, or the arithmetic; empty for the same value.
        """
        known = find_key(ours)
        is_default = known is not None and to_plain(known.default) == value
        if not is_default:
            merge_at(self.values, ours.split("."), value)
        word = f"{ours}={format_typed(value)}"
        self._record(keys, Outcome.default if is_default and not why else Outcome.translated, (word,), why)

    def change(self, ours: str, value: Any, *keys: str, why: str) -> None:
        """Set a key of the recipe to another value than that of the config."""
        merge_at(self.values, ours.split("."), value)
        self._record(keys, Outcome.changed, (f"{ours}={format_typed(value)}",), why)

    def choose(self, group: str, option: str, *keys: str, why: str = "") -> None:
        """Choose the option of a group, and record from which keys it comes."""
        if option == _CHOICES.get(group):
            self.choices.pop(group, None)
            self._record(keys, Outcome.default, (f"{group}={option}",), why)
        else:
            self.choices[group] = option
            self._record(keys, Outcome.translated, (f"{group}={option}",), why)

    def none(self, *keys: str, why: str) -> None:
        """Record keys without an equal here."""
        present = tuple(key for key in keys if self._is_written(key))
        self._read.update(keys)
        if present:
            self.entries.append(Entry(present, Outcome.none, (), why))

    def same(self, *keys: str, why: str) -> None:
        """Record keys whose value is what happens here anyway."""
        present = tuple(key for key in keys if self._is_written(key))
        self._read.update(keys)
        if present:
            self.entries.append(Entry(present, Outcome.default, (), why))

    def seen(self, key: str) -> None:
        """Record that the parts of a key have entries of their own."""
        self._read.add(key)

    def ask(self, word: str, *keys: str, why: str) -> None:
        """Record a key of ours that the config does not answer, as ``key=VALUE``."""
        self.questions.append(word)
        self.none(*keys, why=f"{why}; add {word}")

    def questions_with_values(self) -> list[str]:
        """Return the open questions with values that compose, to check the rest of the recipe."""
        values = {"max_rows=N": "max_rows=1000", "train=[REGEX]": "train=[layers]"}
        words = [word for word in self.questions if "<name>" not in word and not word.endswith("=FILE")]
        return [word.replace(name, value) for word in words for name, value in values.items() if word.endswith(name)]

    def finish(self) -> None:
        """Translate, by the shared tables, every key that was not read yet."""
        for key, value in self.config.values.items():
            is_empty = value is None or value in ("", [], {})
            if is_empty and not any(key in entry.keys for entry in self.entries):
                self.entries.append(Entry((key,), Outcome.empty))
            elif key in self._read or is_empty:
                continue
            else:
                self._by_tables(key, value)
        if "path" not in self.values.get("model", {}):
            self.questions.append("model.path=DIR_OR_HUB_ID")
        if not self.values.get("data", {}).get("mix"):
            self.questions.append("data.mix.local.path=FILE")

    def _by_tables(self, key: str, value: Any) -> None:
        """Translate a key that has one counterpart in the same unit, or none."""
        name = key.lower().replace("-", "_")
        ours, equals, constant = (KEY_ALIASES.get(name) or _same_name(name)).partition("=")
        known = find_key(ours) if ours and "<name>" not in ours else None
        if known is not None and not equals:
            self.put(ours, value, key)
        elif known is not None and value is not False:
            self.put(ours, constant, key)
        elif (reason := unsupported_reason(name)) is not None:
            self.none(key, why=plain_reason(reason))
        elif value is False:
            self.same(key, why="off, as here")
        else:
            near = closest_name(name, {*KEY_ALIASES, *UNSUPPORTED, *self.defaults})
            self.none(key, why=f"unknown here{f'; was {near} meant?' if near else ''}")

    def put(self, ours: str, value: Any, *keys: str, why: str = "") -> None:
        """Set a key to a value in the words of another tool; record no equal where nothing fits."""
        known = find_key(ours)
        assert known is not None, ours
        if is_valid_value(known.kind, known.limits, value):
            self.set(ours, value, *keys, why=why)
        elif meant := _suggested(known, value):
            self.set(ours, meant[0], *keys, why=why)
        elif ours in DEFAULTS:
            left = f"no value of {ours} is like {format_typed(value)}; it keeps {format_typed(DEFAULTS[ours])}"
            self.none(*keys, why=left)
        else:
            self.none(*keys, why=f"no value of {ours} is like {format_typed(value)}")

    def _record(self, keys: Sequence[str], outcome: Outcome, words: tuple[str, ...], why: str) -> None:
        """Add the entry of keys that set ours; those that the config does not write are its tool's defaults."""
        present = tuple(key for key in keys if self._is_written(key))
        self._read.update(keys)
        if present:
            self.entries.append(Entry(present, outcome, words, why))
            for ours in (word.partition("=")[0] for word in words):
                if ours not in _CHOICES:
                    self.comments[ours] = ", ".join(present)
        elif keys and outcome is not Outcome.default:
            self.entries.append(Entry(tuple(keys), Outcome.implied, words, why))

    def _is_written(self, key: str) -> bool:
        """Return whether the config writes the key; a dotted one is part of a mapping or a list."""
        return self.config.values.get(key.partition(".")[0]) is not None


def _suggested(known: Key, value: Any) -> list[Any]:
    """Return the values of a key that another tool's value may stand for; a number stands for itself alone."""
    meant = suggest_values(known.kind, known.limits, value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [one for one in meant if one == value] if is_number else meant


def plain_reason(reason: str) -> str:
    """Return the reason of a table of suggestions without the advice to remove the key."""
    return reason.removeprefix("remove it: ").removeprefix("remove it, or ")


def _same_name(name: str) -> str:
    """Return our key of the same name and meaning, of the model or the training loop; empty without one."""
    return next((key for section in ("trainer", "model") if (key := f"{section}.{name}") in DEFAULTS), "")


DEFAULTS = dict(flatten(to_plain(Config()), "", keep_empty=True))
"""Our dotted key -> its default."""
_CHOICES = {"template": "auto", "adapter": "lora", "quant": "none", "distributed": "ddp"}
"""Group -> the option that is taken without a choice."""
