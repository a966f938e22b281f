"""The items of a suite, made from its rows."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from sft_cli.config.rules.suites import PLAIN
from sft_cli.config.schema.suites import SuiteConfig, SuiteFormat, SuiteKind
from sft_cli.errors import SftError
from sft_cli.scoring.types import Item
from sft_cli.suites.fields import SuiteFields
from sft_cli.suites.other_rows import OtherRows
from sft_cli.suites.rows import SuiteRows, read_shot_rows, read_suite_rows
from sft_cli.suites.tools import tool_schema
from sft_cli.suites.variants import Variants, variant_id
from sft_cli.types import Row
from sft_cli.utils.hashing import json_digest

ID_DIGITS = 12
"""Hexadecimal digits of the id of an item without an id of its own."""
ANSWER_SEPARATOR, SHOT_SEPARATOR = " ", "\n\n"
"""Text before an answer, and between solved examples, with ``format=text``."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """An item of a suite, with what the engine needs beyond a scorer.

    Attributes:
        item: The item.
        where: File and line of its row.
        choices: The choices, in a suite of choices.
        gold: Index of the correct choice; -1 without choices.
        tools: Schemas of the tools; None without tools.
        plain: Id of the item with the unchanged question, of which this is a variant; empty without variants.
        after: Id of the item that this one continues; its own answer takes the place of the message before the last.
        prompt_ids: Ids of the prompt, where they are not encoded from the conversation.
        expected_ids: Ids whose first ones are compared with those of the answer; empty: none are.
    """

    item: Item
    where: str
    choices: tuple[str, ...] = ()
    gold: int = -1
    tools: tuple[Message, ...] | None = None
    plain: str = ""
    after: str = ""
    prompt_ids: tuple[int, ...] = ()
    expected_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedSuite:
    """A suite with its items.

    Attributes:
        name: Its name.
        config: Its definition.
        items: The items to ask.
        fingerprint: Digest of the rows of the items, of the solved examples, and of the files of variants.
        rows: Number of rows that the items are made from.
        total: Number of items of the file.
        origin: The file, or the hub data set.
    """

    name: str
    config: SuiteConfig
    items: tuple[SuiteItem, ...]
    fingerprint: str
    rows: int
    total: int
    origin: str


def load_suite(name: str, suite: SuiteConfig, data_dir: str | None = None, limit: int | None = None) -> LoadedSuite:
    """Read the rows of a suite and make its items.

    Args:
        name: Name of the suite.
        suite: Its definition.
        data_dir: ``eval.data_dir``.
        limit: ``eval.limit``.

    Raises:
        SftError: There is no file, or a row lacks a field.
    """
    found = read_suite_rows(name, suite, data_dir)
    maker = _ItemMaker(name, suite, found, data_dir)
    limits = [number for number in (suite.limit, limit) if number is not None]
    rows = found.rows[: min(limits)] if limits else found.rows
    items = [item for row in rows for item in maker.make_all(row)]
    fingerprint = json_digest([found.fingerprint, *maker.digests]) if maker.digests else found.fingerprint
    return LoadedSuite(name, suite, tuple(items), fingerprint, len(rows), len(found.rows), found.origin)


class _ItemMaker:
    """Makes items; all share the same solved examples, without the item itself."""

    def __init__(self, name: str, suite: SuiteConfig, rows: SuiteRows, data_dir: str | None) -> None:
        self._suite, self._fields, self._ids = suite, SuiteFields(name, suite), dict[str, int]()
        self._variants = Variants(name, suite.variants, self._fields, data_dir)
        self._others = OtherRows(rows.rows, self._fields)
        self._shots = list[Row]()
        if suite.shots.count:
            others = read_shot_rows(name, suite, data_dir)
            pool = list(rows.rows) if others is None else others
            # One more than needed: an item that is an example itself leaves that one out.
            number = suite.shots.count + (others is None)
            if len(pool) < number:
                raise SftError(
                    where=f"eval.suites.{name}.shots.count",
                    problem=f"{suite.shots.count} examples are wanted, but there are {len(pool)} rows",
                    fix=f"set eval.suites.{name}.shots.count={max(0, len(pool) - 1)}",
                )
            self._shots = random.Random(suite.shots.seed).sample(pool, number)

    @property
    def digests(self) -> list[str]:
        """Digests of the rows of the solved examples, and of the variants, if there are any."""
        shots = [json_digest([dict(row.values) for row in self._shots])] if self._suite.shots.count else []
        return [*shots, *([self._variants.digest] if self._suite.variants.files else [])]

    def make_all(self, row: Row) -> list[SuiteItem]:
        """Return the items of a row: the question, its variants that differ from it, and their second turns."""
        id = self._id(row)
        if not self._variants.names:
            return self._with_second_turn(self._make(row, id), row)
        plain = self._variant(PLAIN, row, id)
        others = [self._variant(name, row, id) for name in self._variants.names]
        different = [entry for entry in others if entry.item.messages != plain.item.messages]
        return [turn for entry in (plain, *different) for turn in self._with_second_turn(entry, row)]

    def _variant(self, variant: str, row: Row, id: str) -> SuiteItem:
        """Return a variant of the item of a row."""
        entry = self._make(self._variants.row(variant, row), id, variant)
        cluster, tags = entry.item.cluster or id, {**entry.item.tags, "variant": variant}
        return replace(entry, item=replace(entry.item, cluster=cluster, tags=tags), plain=id)

    def _with_second_turn(self, entry: SuiteItem, row: Row) -> list[SuiteItem]:
        """Return an item with its second turn, if the suite has one."""
        if self._suite.second_prompt is None:
            return [entry]
        values = self._fields.second_turn(row, self._others.after(row))
        question = str(values["second_prompt"])
        if not question.strip():
            raise self._fields.error(row, "second_prompt", "it is empty")
        item, reply = entry.item, {"role": "assistant", "content": ""}
        first = replace(item, cluster=item.cluster or item.id, tags={**item.tags, "turn": "1"})
        second = replace(
            first,
            id=second_id(item.id),
            messages=(*item.messages, reply, {"role": "user", "content": question}),
            target=_texts(values["second_target"]) if "second_target" in values else item.target,
            tags={**item.tags, "turn": "2"},
        )
        plain = second_id(entry.plain) if entry.plain else ""
        return [replace(entry, item=first), replace(entry, item=second, plain=plain, after=item.id)]

    def _make(self, row: Row, id: str, variant: str = PLAIN) -> SuiteItem:
        """Return the item of a row in a variant."""
        values = self._variants.values(variant, row, self._fields.evaluate(row))
        choices, gold = self._choices(values, row) if self._suite.kind is SuiteKind.choices else ((), -1)
        item = Item(
            id=variant_id(id, variant),
            messages=self._messages(values, row, self._variants.change(variant, id)),
            target=(choices[gold],) if choices else _texts(values.get("target")),
            fields=row.values,
            cluster=str(values.get("cluster", "")),
            tags=self._fields.tags(row),
        )
        return SuiteItem(item, row.where, choices, gold, self._tools(values, row))

    def _id(self, row: Row) -> str:
        """Return an id that no other item of the suite has."""
        own = self._fields.id(row)
        id = own or json_digest(dict(row.values))[:ID_DIGITS]
        self._ids[id] = self._ids.get(id, 0) + 1
        if self._ids[id] == 1:
            return id
        if own:
            raise self._fields.error(row, "id", f"another item has the id {own!r}")
        return f"{id}-{self._ids[id]}"

    def _messages(self, values: Mapping[str, Any], row: Row, change: Callable[[str], str] = str) -> tuple[Message, ...]:
        """Return the conversation up to the answer, its question changed by a variant.

        With ``format=text`` it is one message with the whole text.
        """
        if self._suite.messages is not None:
            *before, question = self._conversation(values["messages"], row)
            is_text = isinstance(question["content"], str)
            return (*before, {**question, "content": change(question["content"])} if is_text else question)
        shots = [shot for shot in self._shots if shot.values != row.values][: self._suite.shots.count]
        solved = [(self._prompt(self._fields.evaluate(shot), shot), self._answer(shot)) for shot in shots]
        prompt = change(self._prompt(values, row))
        system = str(values.get("system") or "")
        if self._suite.format is SuiteFormat.text:
            parts = [f"{question}{ANSWER_SEPARATOR}{answer.lstrip()}" for question, answer in solved]
            text = SHOT_SEPARATOR.join([*([system] if system else []), *parts, prompt])
            return ({"role": "user", "content": text},)
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for question, answer in solved:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return (*messages, {"role": "user", "content": prompt})

    def _prompt(self, values: Mapping[str, Any], row: Row) -> str:
        """Return the user message of a row."""
        text = str(values["prompt"])
        if values["prompt"] is None or not text.strip():
            raise self._fields.error(row, "prompt", "it is empty")
        return text

    def _answer(self, row: Row) -> str:
        """Return the answer of a solved example."""
        if self._suite.kind is not SuiteKind.choices:
            return self._fields.answer(row)
        choices, gold = self._choices(self._fields.evaluate(row), row)
        return choices[gold]

    def _conversation(self, value: Any, row: Row) -> tuple[Message, ...]:
        """Return the messages of a row that holds a whole conversation."""
        fitting = isinstance(value, list) and value and all(_is_message(message) for message in value)
        if not fitting:
            raise self._fields.wrong_value(row, "messages", value, "a list of messages with role and content")
        if value[-1]["role"] == "assistant":
            raise self._fields.error(row, "messages", "the last message is an answer, so that nothing is asked")
        return tuple(value)

    def _choices(self, values: Mapping[str, Any], row: Row) -> tuple[tuple[str, ...], int]:
        """Return the choices and the index of the correct one."""
        choices = values["choices"]
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) for text in choices):
            raise self._fields.wrong_value(row, "choices", choices, "a list of two or more texts")
        if not all(choices):
            raise self._fields.error(row, "choices", "one of the choices is empty")
        gold = choice_index(values["gold"], choices)
        if gold is None:
            expected = f"an index below {len(choices)}, a letter, or one of the choices"
            raise self._fields.wrong_value(row, "gold", values["gold"], expected)
        return tuple(choices), gold

    def _tools(self, values: Mapping[str, Any], row: Row) -> tuple[Message, ...] | None:
        """Return the schemas of the tools."""
        tools = values.get("tools")
        if tools is None:
            return None
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise self._fields.wrong_value(row, "tools", tools, "a list of schemas")
        return tuple(tool_schema(tool) for tool in tools)


def second_id(id: str) -> str:
    """Return the id of the second turn of an item."""
    return f"{id}.2"


def choice_index(gold: Any, choices: Sequence[str]) -> int | None:
    """Return the index of the correct choice, given by its index, letter or text; None if it is none of them."""
    if isinstance(gold, str):
        text = gold.strip()
        if text in choices:
            return list(choices).index(text)
        if len(text) == 1 and text in ascii_uppercase[: len(choices)]:
            return ascii_uppercase.index(text)
        gold = int(text) if text.isdecimal() else None
    in_range = isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(choices)
    return gold if in_range else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value


def _texts(value: Any) -> tuple[str, ...]:
    """Return the accepted answers of a value."""
    if value is None:
        return ()
    return tuple(str(entry) for entry in value) if isinstance(value, list) else (str(value),)
