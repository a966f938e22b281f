"""The account of columns and keys that nothing reads, and the refusal of those that change what a row means.

Names are compared word by word (``model_reasoning``, ``imagePath``), in any letter case.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats.column_names import ALIASES, fold_name
from sft_cli.data.formats.detect import AUTO
from sft_cli.data.formats.registry import Format
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.similar import closest_name


class Meaning(NamedTuple):
    """What a column speaks of.

    Attributes:
        description: In a few words, for the error.
        words: Words of a column's name that say so.
        named: Whether it is refused also where the user named the format.
    """

    description: str
    words: frozenset[str]
    named: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEDIA = Meaning(
    "images, sound or video",
    _words("image images img imgs picture pictures photo photos pixel audio audios speech sound wav video videos"),
    named=True,
)
PREFERENCE = Meaning(
    "a judgement of the answer, or a label", _words("label labels rejected reject preference kto"), named=True
)
MEANINGS = (
    MEDIA,
    PREFERENCE,
    Meaning("a preferred answer", _words("chosen preferred")),
    Meaning("which tokens carry loss", _words("loss masked train training trainable mask masks")),
    Meaning(
        "reasoning",
        _words(
            "reasoning thinking think thought thoughts cot rationale rationales explanation explanations justification"
            " scratchpad analysis channel solution solutions"
        ),
    ),
    Meaning(
        "an answer",
        _words(
            "output outputs answer answers response responses completion completions target targets reply replies"
            " summary summaries highlights headline translation"
        ),
    ),
    Meaning(
        "a part of the prompt",
        _words("system sys tool tools function functions context passage history choices options input inputs"),
    ),
)
"""What makes another row of one, in the order in which it is looked for."""

ABOUT = _words(
    "id ids idx index uid uuid guid url urls link uri domain title name source src origin dataset subset split config"
    " lang language languages locale date time timestamp created updated year author authors license licence copyright"
    " meta metadata score scores quality perplexity ppl count counts length len size num n tokens chars words bytes"
    " file filename path hash md5 sha sha1 sha256 version model type kind page offset dump crawl mime fingerprint"
    " keywords repo stars forks"
)
"""Last words of names of columns that are about a row, not a part of it."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|\d+")
PLACEHOLDER = re.compile(r"<\|?(image|video|audio)(_pad|_placeholder)?\|?>|\[IMG\]", re.IGNORECASE)
"""Where a message stands for an image, sound or video of the row."""
EXEMPT = ("parallel_tool_calls", "special_tokens_mask")
"""Columns that only look as if they said something else: parameters of a request, what tokenizers return."""


def column_words(column: str) -> list[str]:
    """The words of a column's name in small letters: ``image``, ``path`` of ``imagePath`` and of ``image_path``."""
    return [word.casefold() for word in WORD.findall(column)]


@lru_cache(maxsize=1000)
def column_meaning(column: str) -> Meaning | None:
    """What a column speaks of, if that changes what the row means; None for what is about the row (``answer_id``)."""
    words = [word for word in column_words(column) if not word.isdigit()]
    if column in EXEMPT:
        return None
    for found in MEANINGS:
        if not found.words.isdisjoint(words):
            about = not found.named and words[-1] in ABOUT
            return None if about else found
    return None


def is_about(column: str) -> bool:
    """Whether a column of this name is about a document: its id, source, date, length, or pandas' index."""
    words = [word for word in column_words(column) if not word.isdigit()]
    return not words or words[-1] in ABOUT or words in (["unnamed"], ["index", "level"])


def column_has_value(value: Any, meant: Meaning | None) -> bool:
    """Whether a value says anything; for pictures also 0 and false say nothing."""
    if isinstance(value, str):
        return bool(value.strip())
    if value is None or (isinstance(value, list | dict) and not value):
        return False
    return bool(value) if meant is MEDIA else True


def ignores_media(values: Mapping[str, Any], ignored: Iterable[str]) -> bool:
    """Whether a column that is ignored on purpose holds images, sound or video."""
    return any(column_meaning(column) is MEDIA and column_has_value(values[column], MEDIA) for column in ignored)


def with_placeholder_remark(conversation: Conversation) -> Conversation:
    """The conversation; with a remark where a message holds a placeholder of ignored media, which is plain text now."""
    if not any(PLACEHOLDER.search(message.content) for message in conversation.messages):
        return conversation
    return replace(conversation, remarks=(*conversation.remarks, "media_placeholder"))


@dataclass
class UnreadColumns:
    """What was seen of the columns of some rows.

    Attributes:
        not_read: Column or key that nothing reads -> the first place where it holds a value, or None.
        ignored: Columns seen that are left out on purpose.
    """

    not_read: dict[str, str | None] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], where: str, not_read: Iterable[str], ignored: Iterable[str]) -> None:
        """One more row."""
        for column in not_read:
            if self.not_read.get(column) is None:
                said = column_has_value(values[column], column_meaning(column))
                self.not_read[column] = where if said else None
        for column in ignored:
            self.ignored[column] = None

    def add_keys(self, keys: Iterable[str], where: str) -> None:
        """Keys inside a row, such as ``messages[].id``."""
        for key in keys:
            if self.not_read.get(key) is None:
                self.not_read[key] = where

    def join(self, other: "UnreadColumns") -> None:
        """The account of the rows that follow."""
        for column, where in other.not_read.items():
            if self.not_read.get(column) is None:
                self.not_read[column] = where
        self.ignored.update(other.ignored)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; the inverse of ``of``."""
        return {"not_read": self.not_read, "ignored": list(self.ignored)}

    def named(self) -> dict[str, list[str]]:
        """The names alone, for the manifest."""
        return {"not_read": list(self.not_read), "ignored": list(self.ignored)}

    @staticmethod
    def of(values: Mapping[str, Any]) -> "UnreadColumns":
        """From ``plain``."""
        return UnreadColumns(dict(values["not_read"]), dict.fromkeys(values["ignored"]))


def load_unread(file: Path) -> UnreadColumns:
    """An account that was written as JSON."""
    return UnreadColumns.of(json.loads(file.read_bytes()))


def refuse_meaningful(
    unread: UnreadColumns, config: SourceConfig, source: str, label: str, row_format: Format | None
) -> None:
    """Return if no unread column changes what the rows mean.

    Under a guessed format that is any of ``MEANINGS``, and beside a document everything but what is about it; under a
    format that the user named, pictures and labels alone.

    Args:
        unread: The rows read so far.
        config: The source.
        source: Its name in the mix.
        label: The format's name.
        row_format: The format, None where a package decides it row by row.

    Raises:
        SftError: Some do; it names them all, and the first row.
    """
    guessed = config.format == AUTO
    document = row_format is not None and row_format.document and "input_ids" not in row_format.reads
    alone = guessed and document and config.role is not Role.replay
    found = {
        column: (meant, where)
        for column, where in unread.not_read.items()
        if where is not None and "[]" not in column
        if (meant := _why_refused(column, guessed, alone)) is not None
    }
    if not found:
        return
    how = f"the format {label}, recognised from the columns," if guessed else f"the format {label}"
    columns_text = ", ".join(f"{column!r} ({meant})" for column, (meant, _) in found.items())
    first = next(iter(found.values()))[1]
    fix = _fix(config, f"data.mix.{source}", list(unread.ignored), list(found), row_format, alone)
    raise SftError(where=first, problem=f"{how} does not read {columns_text}", fix=fix)


def _why_refused(column: str, guessed: bool, alone: bool) -> str | None:
    """What an unread column speaks of, if it is refused."""
    meant = column_meaning(column)
    if meant is not None:
        return meant.description if guessed or meant.named else None
    return "it may belong to the text" if alone and not is_about(column) else None


def _fix(
    config: SourceConfig, key: str, ignored: list[str], columns: list[str], row_format: Format | None, alone: bool
) -> str:
    """What to set: the column under the name the format has for it, the answer to a text, or leave it out."""
    left_out = format_override(f"{key}.ignore", [*ignored, *columns])
    if alone and row_format is not None:
        text = config.columns.get(row_format.required[0], row_format.required[0])
        asked = format_override(f"{key}.columns", {"prompt": text, "completion": columns[0]})
        return f"{left_out} trains only the text; {asked} trains {columns[0]} as the answer to it"
    for name in () if row_format is None or not isinstance(config.format, str) else row_format.optional:
        meant = next((column for column in columns if fold_name(column) in ALIASES.get(name, ())), None)
        if meant is not None and name not in config.columns:
            mapped = format_override(f"{key}.columns", {**config.columns, name: meant})
            return f"{mapped} reads it as {name}; {left_out} leaves it out"
    them = "it" if len(columns) == 1 else "them"
    return f"{left_out} leaves {them} out on purpose{_instead(config, key, ignored, columns, row_format)}"


def _instead(config: SourceConfig, key: str, ignored: list[str], columns: list[str], row_format: Format | None) -> str:
    """How to train a column that holds another answer, or reasoning; empty where none does.

    Args:
        config: The source.
        key: Its key.
        ignored: Columns that are left out already.
        columns: Columns that are refused.
        row_format: The format, None where a package decides it row by row.
    """
    kinds = {found.description: column for column in reversed(columns) if (found := column_meaning(column)) is not None}
    other = kinds.get("an answer")
    if (
        other is not None
        and row_format is not None
        and isinstance(config.format, str)
        and len(row_format.required) == 2
    ):
        field = row_format.required[1]
        rest = [*ignored, *(column for column in columns if column != other), config.columns.get(field, field)]
        mapped = format_override(f"{key}.columns", {**config.columns, field: other})
        return f"; {mapped} {format_override(f'{key}.ignore', rest)} trains {other} instead"
    if "reasoning" in kinds:
        return "; to train it, write rows as messages whose answers have it under reasoning_content"
    return ""


def check_ignored(unread: UnreadColumns, source: str, wanted: Iterable[str], columns: Iterable[str]) -> None:
    """Return if every column to leave out is one of the rows'.

    Args:
        unread: All rows.
        source: Name of the source in the mix.
        wanted: The source's ``ignore``.
        columns: Columns there are, for advice.
    """
    for name in wanted:
        if name in unread.ignored:
            continue
        there = list(dict.fromkeys([*columns, *unread.not_read]))
        near = closest_name(name, there)
        rest = [column for column in wanted if column != name]
        key = f"data.mix.{source}.ignore"
        raise SftError(
            where=key,
            problem=f"no row has a column {name!r}; there are {format_list(there)}",
            fix=f"did you mean {format_override(key, [*rest, near])}?"
            if near
            else f"write {format_override(key, rest)}",
        )
