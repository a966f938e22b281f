"""Data types of the pipeline: rows, messages, conversations and examples. All are frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SplitName = Literal["train", "validation"]
"""The two splits of a prepared directory, and of a source."""


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row of a source.

    Attributes:
        values: The columns.
        where: Its place: ``train.jsonl:17`` (line, from 1), ``rows.json[16]`` (element of a JSON list,
            from 0 as in ``messages[0]``), ``repo@rev[split]:17``.
        source: Name of the source in the mix.
    """

    values: Mapping[str, Any]
    where: str
    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: The text; empty for an assistant turn that only calls tools.
        weight: Factor on the loss of this message's tokens; 0 switches it off.
        extra: Further keys a template may read (tool_calls, name, tool_call_id, reasoning_content).
    """

    role: str
    content: str
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A row of token ids: ``input_ids`` ``(length,)`` and the loss weight of each, ``(length,)``."""

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training conversation, or one plain document, or one row of token ids.

    Attributes:
        messages: The turns, in order.
        where: Place of its row; branches of a tree add ``#1``, ``#2``, ….
        source: Name of the source in the mix.
        tools: Tool schemas the template may show, or None.
        text: A plain document, trained as a whole without a template.
        rendered: Whether ``text`` is a conversation already rendered by the chat template.
        tokens: Token ids, trained as they are.
        tags: Tag -> value, such as ``{"task": "summarize", "language": "de"}``.
        scores: Score -> number, such as ``{"quality": 4.5}``.
        group: Conversations of one group, such as branches of a tree, go to the same split; or None.
        remarks: Keys of data/remarks.py about changes and findings of its format.
        not_read: Sorted parts of the row that are not read: a column (``id``), a key of its messages
            (``messages[].created``) or of their parts (``messages[].content[].cache_control``).
    """

    messages: tuple[Message, ...]
    where: str
    source: str
    tools: tuple[Mapping[str, Any], ...] | None = None
    text: str | None = None
    tokens: TokenIds | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None
    remarks: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()
    rendered: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids with one loss weight per token, verified.

    Attributes:
        input_ids: ``(length,)`` token ids.
        weights: ``(length,)``; 0 where the token carries no loss. ``weights[t]`` belongs to the *prediction of*
            ``input_ids[t]``, so ``weights[0]`` is always 0. Only batching/collate.py shifts.
        where: Place of its row.
        source: Name of the source in the mix.
    """

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]
    where: str
    source: str
