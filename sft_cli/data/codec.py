"""Encode conversations to bytes, and decode them."""

import json
from hashlib import blake2b
from typing import Any

from sft_cli.types import Conversation, Message, TokenIds

DIGEST_BYTES = 16
"""Length of a digest in bytes."""
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_from_json = json.JSONDecoder().raw_decode
_plain = json.JSONEncoder(ensure_ascii=False).encode


def encode_conversation(conversation: Conversation) -> bytes:
    """Return a conversation without its location and source as JSON; empty fields are omitted."""
    messages = [[m.role, m.content, m.weight, dict(m.extra)] for m in conversation.messages]
    tokens = conversation.tokens
    parts = {
        "messages": messages,
        "tools": conversation.tools,
        "text": conversation.text,
        "tokens": tokens and [tokens.input_ids, tokens.weights],
        "tags": dict(conversation.tags),
        "scores": dict(conversation.scores),
        "group": conversation.group,
        "remarks": list(conversation.remarks),
        "not_read": list(conversation.not_read),
        "rendered": conversation.rendered or None,
    }
    kept = {name: part for name, part in parts.items() if part not in (None, {}, [])}
    return _to_json(kept).encode()


def decode_conversation(payload: bytes, where: str, source: str) -> Conversation:
    """Return the conversation of bytes that ``encode_conversation`` wrote."""
    parts: dict[str, Any] = _from_json(payload.decode())[0]
    tools, tokens = parts.get("tools"), parts.get("tokens")
    return Conversation(
        messages=tuple(Message(*message) for message in parts.get("messages", ())),
        where=where,
        source=source,
        tools=None if tools is None else tuple(tools),
        text=parts.get("text"),
        tokens=None if tokens is None else TokenIds(tuple(tokens[0]), tuple(tokens[1])),
        tags=parts.get("tags", {}),
        scores=parts.get("scores", {}),
        group=parts.get("group"),
        remarks=tuple(parts.get("remarks", ())),
        not_read=tuple(parts.get("not_read", ())),
        rendered=parts.get("rendered", False),
    )


def prompt_digest(conversation: Conversation) -> bytes:
    """Return a digest of the prompt, which must not be both in training and held out.

    The prompt is the conversation up to its last message, or the whole document.
    """
    if conversation.text is not None:
        return content_digest(conversation.text.encode())
    if conversation.tokens is not None:
        return content_digest(repr(conversation.tokens.input_ids).encode())
    prompt = [(m.role, m.content) for m in conversation.messages[:-1]]
    return content_digest(_plain(prompt).encode())


def content_digest(content: bytes) -> bytes:
    """Return the BLAKE2b of ``DIGEST_BYTES`` bytes."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()
