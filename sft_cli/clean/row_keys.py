"""Compute the digests by which rows are compared, and choose the row to keep among equal ones."""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import Argument, RowView, answer_text, prompt_text
from sft_cli.config.schema.clean import Scope
from sft_cli.types import Conversation, Message

DIGEST_BYTES = 16


def row_digest(conversation: Conversation, scope: Scope, *, weights: bool = False) -> bytes:
    """Return 16 bytes that are equal exactly if two rows are the same by ``scope`` (but for collisions).

    prompt: roles, texts and tool calls before the last answer, and the tools, ignoring case, white space and Unicode
    form. A row without a question (only a system message, or no message, before the answer) is compared as a
    conversation.

    conversation: all messages. Case, indentation and line breaks count, since ``a = 1`` and ``A = 1`` are two programs;
    line ends, white space at the end of lines, blank lines around a text and the Unicode form do not.

    The Unicode form is NFC; NFKC would equate 2² and 22. Ids of tool calls are arbitrary, and ignored. Digests of
    different rows collide with a probability of 2^-128 per pair.

    Args:
        conversation: The row.
        scope: prompt or conversation.
        weights: Whether conversations with different loss weights differ: rows that one conversation was split into,
            one for each trained turn, hold the same texts.
    """
    content: Any
    if conversation.tokens is not None:
        content = ["tokens", conversation.tokens.input_ids, conversation.tokens.weights if weights else ()]
    elif conversation.text is not None:
        content = [
            "text",
            _normalize_loosely(conversation.text) if scope is Scope.prompt else _normalize_closely(conversation.text),
        ]
    else:
        content = _comparison_key(conversation, scope, weights)
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode("ascii"), digest_size=DIGEST_BYTES).digest()


def row_digests(
    rows: RowView, function: Callable[[Sequence[Conversation], Argument], Sequence[bytes]], argument: Argument
) -> NDArray[np.uint64]:
    """Return ``(rows, 2)`` the 16 bytes that ``function`` returns for each row."""
    digests = np.empty((len(rows), 2), np.uint64)
    for start, batch in rows.map(function, argument):
        digests[start : start + len(batch)] = np.frombuffer(b"".join(batch), np.uint64).reshape(-1, 2)
    return digests


def preference_order(rows: RowView) -> NDArray[np.int64]:
    """Return ``(rows,)`` the rows in the order in which they are kept: held out, highest priority, earliest."""
    return np.lexsort((-rows.priority, ~rows.held_out))


def representatives(digests: NDArray[np.uint64], rows: RowView) -> NDArray[np.int64]:
    """Return ``(rows,)`` the row that is kept among all rows with the same digest."""
    order = np.lexsort((-rows.priority, ~rows.held_out, digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept = np.empty(len(order), np.int64)
    kept[order] = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    return kept


def comparison_text(conversation: Conversation, scope: Scope) -> str:
    """Return the text by whose words a row is compared: the prompt, or prompt and last answer; empty for token ids."""
    prompt = prompt_text(conversation)
    return f"{prompt}\n{answer_text(conversation)}" if scope is Scope.conversation else prompt


def _comparison_key(conversation: Conversation, scope: Scope, weights: bool) -> list[Any]:
    """Return messages and tools in the form in which ``scope`` compares them."""
    messages: Sequence[Message] = conversation.messages
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    before = messages[: answers[-1]] if answers else messages
    if scope is Scope.prompt and any(message.role != "system" and _has_content(message) for message in before):
        entries = [
            ["prompt", message.role, _normalize_loosely(message.content), *_extras(message, _normalize_loosely)]
            for message in before
        ]
    else:
        entries = [
            [message.role, _normalize_closely(message.content), *_extras(message, _normalize_closely)]
            for message in messages
        ]
        entries += [[message.weight for message in messages]] if weights else []
    return [entries, sorted(json.dumps(tool, sort_keys=True) for tool in conversation.tools or ())]


def _has_content(message: Message) -> bool:
    """Return whether a message has text or extra fields."""
    return bool(message.content.strip() or message.extra)


def _extras(message: Message, normalize: Callable[[str], str]) -> list[Any]:
    """Return the other fields of a message, normalized: names, tool calls, reasoning."""
    extras = {name: value for name, value in message.extra.items() if name != "tool_call_id"}
    calls = extras.get("tool_calls")
    if isinstance(calls, list | tuple):
        extras["tool_calls"] = [
            {name: value for name, value in call.items() if name != "id"} if isinstance(call, Mapping) else call
            for call in calls
        ]
    return [_normalize(extras, normalize)] if extras else []


def _normalize(value: Any, normalize: Callable[[str], str]) -> Any:
    """Return a JSON value with its texts normalized."""
    if isinstance(value, Mapping):
        return {name: _normalize(entry, normalize) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_normalize(entry, normalize) for entry in value]
    return normalize(value) if isinstance(value, str) else value


def _normalize_loosely(text: str) -> str:
    """Return a text without differences of case, white space and Unicode form."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.lower().split())


def _normalize_closely(text: str) -> str:
    """Return a text without differences of line ends, trailing white space and Unicode form."""
    lines = (text if text.isascii() else unicodedata.normalize("NFC", text)).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")
