"""Variants of a question: typos, case, a long distractor, another phrasing, or the columns of another file."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from sft_cli.config.rules.suites import PLAIN
from sft_cli.config.schema.suites import VariantsConfig
from sft_cli.errors import SftError
from sft_cli.suites.fields import SuiteFields
from sft_cli.suites.rows import read_variant_rows
from sft_cli.types import Row
from sft_cli.utils.hashing import json_digest

WORD = re.compile(r"(?<!\w)[^\W\d_]{4,}(?!\w)")
"""Words that may get a typo."""


class Variants:
    """The variants of the questions of a suite."""

    def __init__(self, name: str, config: VariantsConfig, fields: SuiteFields, data_dir: str | None) -> None:
        """Read the files of the variants.

        Raises:
            SftError: A file is missing, or two of its rows have one id.
        """
        self._config, self._fields = config, fields
        self._key = f"eval.suites.{name}.variants"
        self._rows: dict[str, dict[str, Row]] = {}
        for variant, file in config.files.items():
            key = f"{self._key}.files.{variant}"
            found = self._rows.setdefault(variant, {})
            for row in read_variant_rows(name, file, key, data_dir):
                if (id := fields.id(row)) in found:
                    raise SftError(where=row.where, problem=f"another row has the id {id!r}", fix="remove one of them")
                found[id] = row

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variants other than the plain question."""
        return (*self._config.kinds, *self._config.prompts, *self._config.files)

    @property
    def digest(self) -> str:
        """Digest of the rows of all files."""
        rows = {name: [dict(row.values) for row in rows.values()] for name, rows in self._rows.items()}
        return json_digest(rows)

    def row(self, variant: str, row: Row) -> Row:
        """Return a row as a variant has it.

        Raises:
            SftError: The file of the variant has no such row.
        """
        if variant not in self._rows:
            return row
        id = self._fields.id(row)
        if (found := self._rows[variant].get(id)) is None:
            file, key = self._config.files[variant], f"{self._key}.files.{variant}"
            problem, fix = f"{file} has no row with the id {id!r}", f"complete {file}, or set {key}=FILE"
            raise SftError(where=row.where, problem=problem, fix=fix)
        return replace(row, values={**row.values, **found.values})

    def values(self, variant: str, row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row with the prompt of a variant."""
        changed = variant in self._config.prompts
        return {**values, **({"prompt": self._fields.phrasing(variant, row)} if changed else {})}

    def change(self, variant: str, id: str) -> Callable[[str], str]:
        """Return the change of the text of a question; of other variants, none.

        Args:
            variant: Name of the variant.
            id: Id of the plain item.
        """
        if variant not in self._config.kinds:
            return str
        draws = random.Random(f"{self._config.seed} {variant} {id}")
        changes: Mapping[str, Callable[[str], str]] = {
            "typos": lambda text: add_typos(text, self._config.typos, draws),
            "upper": str.upper,
            "lower": str.lower,
            "distractor": lambda text: f"{distractor(self._config.distractor_words, draws)}\n\n{text}",
        }
        return changes[variant]


def variant_id(id: str, variant: str) -> str:
    """Return the id of a variant of an item; the plain question keeps the item's own."""
    return id if variant == PLAIN else f"{id}:{variant}"


def add_typos(text: str, share: float, draws: random.Random) -> str:
    """Return a text with typos: two letters swapped, one left out, or one doubled, never the first of a word.

    Args:
        text: The text; words with fewer than four letters, and numbers, stay.
        share: Share of the other words that get a typo; at least one does.
        draws: Source of random numbers.
    """
    words = list(WORD.finditer(text))
    if not words:
        return text
    chosen = draws.sample(words, max(1, round(share * len(words))))
    for word in sorted(chosen, key=lambda match: -match.start()):
        text = text[: word.start()] + _mistyped(word[0], draws) + text[word.end() :]
    return text


def _mistyped(word: str, draws: random.Random) -> str:
    """Return a word with one typo."""
    place, kind = draws.randrange(1, len(word) - 1), draws.choice(("swap", "omit", "double"))
    if kind == "swap" and word[place] != word[place + 1]:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    return word[:place] + word[place + 1 :]


def distractor(words: int, draws: random.Random) -> str:
    """Return unrelated sentences with at least so many words, in a random order."""
    sentences = list(_sentences())
    draws.shuffle(sentences)
    found, count, place = [], 0, 0
    while count < words:
        found.append(sentences[place % len(sentences)])
        count += len(found[-1].split())
        place += 1
    return " ".join(found)


@cache
def _sentences() -> tuple[str, ...]:
    text = (files("sft_cli.suites") / "shipped" / "distractor.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
