"""The rows of one source as conversations, with the side and number of copies each is meant for."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from sft_cli.config.schema import Config, SourceConfig
from sft_cli.data import formats, mix, sources
from sft_cli.data.prepared import Side
from sft_cli.data.problems import RowError
from sft_cli.data.sources import BadRow
from sft_cli.data.types import Conversation, Row
from sft_cli.errors import SftError


class Candidate(NamedTuple):
    """A row on its way: converted or not, sampled or not.

    Attributes:
        where: Its place.
        source: Name of the source in the mix.
        side: The split it belongs to.
        copies: Times it is in an epoch; 0 for a row that is not sampled.
        conversation: None if the row could not be read or converted.
        problem: Why not.
        reason: The problem in a few words, the same for all rows that share it.
    """

    where: str
    source: str
    side: Side
    copies: int
    conversation: Conversation | None
    problem: SftError | None
    reason: str

    @property
    def silent(self) -> bool:
        """Whether an answer that is trained says nothing."""
        messages = self.conversation.messages if self.conversation else ()
        answers = [m for m in messages if m.role == "assistant" and m.weight and not m.extra.get("tool_calls")]
        return any(not answer.content.strip() for answer in answers)

    @property
    def weighted(self) -> bool:
        """Whether a message of it has a weight other than 0 and 1."""
        return self.conversation is not None and any(m.weight not in (0, 1) for m in self.conversation.messages)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The candidates of a source in row order, and the format they were read in."""

    candidates: list[Candidate]
    format: str


def gather(name: str, source: SourceConfig, config: Config) -> Gathered:
    """Read and convert a source; decide for each row its split and its copies."""
    seed, separator = config.trainer.seed, config.template.input_separator
    rows = list(sources.read(source, name, "train"))
    format = _format(rows, source, name)
    converted = [_convert(row, format, source, separator) for row in rows]
    chosen = mix.take(len(rows), source.max_rows, 1, seed, name)
    if sources.has_validation(source):
        kept, held_out = list(range(len(chosen))), []
        validation_rows = list(sources.read(source, name, "validation"))
        validation_format = _format(validation_rows, source, name)
        separate = [_convert(row, validation_format, source, separator) for row in validation_rows]
    else:
        keys = [_key(converted[i][0], i) for i in chosen]
        kept, held_out = mix.split_validation(keys, config.data.val_fraction, seed)
        separate, validation_rows = [], []
    sides: dict[int, Side] = {chosen[i]: "validation" for i in held_out}
    copies = Counter(sides.keys())
    copies.update(chosen[kept[i]] for i in mix.take(len(kept), None, source.weight, seed, name))
    found = [_candidate(row, name, sides.get(i, "train"), copies[i], *converted[i]) for i, row in enumerate(rows)]
    found += [_candidate(row, name, "validation", 1, *separate[i]) for i, row in enumerate(validation_rows)]
    return Gathered(found, format)


def _format(rows: list[Row | BadRow], source: SourceConfig, name: str) -> str:
    """The format of a source, from the columns of its first readable row."""
    first = next((row for row in rows if isinstance(row, Row)), None)
    return formats.choose(source.format, first.values if first else (), source.columns, name)


def _convert(
    row: Row | BadRow, format: str, source: SourceConfig, separator: str
) -> tuple[Conversation | None, RowError | None]:
    """The conversation of a row, or what is wrong with it."""
    if isinstance(row, BadRow):
        return None, row.error
    try:
        return formats.convert(row, format, source.columns, separator), None
    except RowError as error:
        return None, error


def _key(conversation: Conversation | None, index: int) -> str:
    """What must not be on both sides: the conversation up to its last message, or the document."""
    if conversation is None:
        return f"row {index}"
    if conversation.text is not None:
        return conversation.text
    return json.dumps([(m.role, m.content) for m in conversation.messages[:-1]], ensure_ascii=False)


def _candidate(
    row: Row | BadRow, name: str, side: Side, copies: int, conversation: Conversation | None, error: RowError | None
) -> Candidate:
    return Candidate(row.where, name, side, copies, conversation, error, error.reason if error else "")
