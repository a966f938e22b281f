"""Classify the keys of a message: read, noted as not read, or refused because they change the message's meaning.

No key is dropped without a note: see ``read_message_keys``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sft_cli.data.formats.loss_flags import is_loss_flag, loss_weight
from sft_cli.data.formats.row_context import RowContext, has_value, key_words
from sft_cli.data.row_errors import RowError, short_repr

PASSED_KEYS = ("name", "tool_call_id")
"""Keys that are passed to the template unchanged; most templates render ``name`` for tools only."""
REASONING_KEYS = (
    "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think", "analysis", "cot",
    "chain_of_thought", "rationale", "reasoning_text", "thinking_content", "thought_process", "inner_thoughts",
    "tool_plan",
)  # fmt: skip
"""Keys in which data sets keep the reasoning of an answer."""
CHANNEL_KEYS = ("channel", "recipient")
"""Keys of harmony messages (gpt-oss) that route the content."""
CONTENT_KEYS = (
    "content", "value", "text", "message", "body", "utterance", "output", "answer", "response", "completion", "refusal",
    "parts",
)  # fmt: skip
"""Aliases of the content of a message."""

_REASONING = {tuple(name.split("_")) for name in REASONING_KEYS}
_REASON_WORDS = {"reason", "reasons", "reasoning", "think", "thinking", "thought", "thoughts", "cot", "rationale",
                 "monologue", "scratchpad", "analysis", "explanation"}  # fmt: skip
_NO_REASONING = {"finish", "stop", "effort", "tokens", "time", "budget", "id", "signature", "type", "duration",
                 "seconds", "ms", "count", "length", "enabled", "encrypted"}  # fmt: skip
_MEDIA = {"image", "images", "audio", "audios", "video", "videos", "file", "files", "attachment", "attachments",
          "media", "picture", "pictures", "photo", "photos", "bbox"}  # fmt: skip
_PREFERENCE_WORDS = {"label", "labels", "rejected", "chosen", "kto", "preferred", "dispreferred"}
_MISPLACED = {
    "tools": "move them to the row's own 'tools'",
    "functions": "move them to the row's own 'tools'",
    "tool_responses": 'write each as its own message: {"role": "tool", "content": …}',
    "function_calls": 'write them as "tool_calls": [{"type": "function", "function": {…}}]',
    "summary": "write it into the content, or as its own message",
}


@dataclass(frozen=True, slots=True)
class MessageKeys:
    """The values of a message's keys other than its role, content and tool calls.

    Attributes:
        weight: Factor on its loss; None when no flag sets one.
        extra: Values for the template: ``name``, ``tool_call_id``, ``reasoning_content``.
        channels: ``channel`` and ``recipient`` of a harmony message.
    """

    weight: float | None
    extra: dict[str, Any]
    channels: Mapping[str, str]


def read_message_keys(
    entry: Mapping[str, Any], read: Collection[str], role: str, field: str, names: str, context: RowContext
) -> MessageKeys:
    """Return the values of a message's keys; note those that are not read, and refuse those that change its meaning.

    Args:
        entry: The message.
        read: Keys that are read elsewhere.
        role: Its role.
        field: Path of the message, for errors: ``messages[3]``.
        names: Path of the message, for notes: ``messages[]``.
        context: The row, which collects the notes.

    Raises:
        RowError: A key changes the meaning of the message in a way that cannot be trained, or two keys contradict.
    """
    flags, extra, reasoning, channels = {}, {}, {}, {}
    for key, value in entry.items():
        if key in read or not has_value(value):
            continue
        if key in PASSED_KEYS:
            extra[key] = value
            if key == "name" and role != "tool":
                context.not_read.add(f"{names}.{key} ({role})")
        elif key in CHANNEL_KEYS:
            channels[key] = value
        elif is_loss_flag(key):
            flags[key] = value
        elif key_words(key) in _REASONING and not isinstance(value, bool | int | float):
            reasoning[key] = value
        else:
            problem = _why_refused(key, value, entry, read)
            if problem is not None:
                raise _refused_key(f"{field}.{key}", value, *problem, context)
            context.not_read.add(f"{names}.{key}")
    if reasoning:
        extra["reasoning_content"] = _merge_reasoning(reasoning, role, field, context)
    weight = loss_weight(flags, field, role, names, context) if flags else None
    return MessageKeys(weight, extra, channels)


def check_part_keys(
    part: Mapping[str, Any], read: Collection[str], field: str, names: str, context: RowContext
) -> None:
    """Note the keys of a content part or tool call that are not read; refuse those that change its meaning.

    Args:
        part: The part or call.
        read: Keys that are read elsewhere.
        field: Its path, for errors.
        names: Its path, for notes.
        context: The row, which collects the notes.
    """
    for key, value in part.items():
        if key in read or not has_value(value):
            continue
        problem = _why_refused(key, value, part, read)
        if problem is not None:
            raise _refused_key(f"{field}.{key}", value, *problem, context)
        context.not_read.add(f"{names}.{key}")


def other_text_keys(entry: Mapping[str, Any]) -> list[str]:
    """Return the keys of a message without content that hold text."""
    return [
        key
        for key, value in entry.items()
        if key not in ("role", "from") and isinstance(value, str) and has_value(value)
    ]


def _why_refused(key: str, value: Any, entry: Mapping[str, Any], read: Collection[str]) -> tuple[str, str] | None:
    """Return the problem and the fix of a key that must not be ignored; None for a key that may be."""
    name, words = "_".join(key_words(key)), set(key_words(key))
    has_payload = not isinstance(value, bool | int | float)
    if has_payload and not words.isdisjoint(_MEDIA):
        return "only text can be trained on", "describe it in the content"
    if not words.isdisjoint(_PREFERENCE_WORDS):
        problem = "a message is trained by its weight, not by its label"
        return problem, "write weight: 1 or 0, or remove the key"
    if name in _MISPLACED:
        return "no template reads it in a message", f"{_MISPLACED[name]}"
    if name in CONTENT_KEYS and isinstance(value, str | list):
        contents = [entry[alias] for alias in read if alias in CONTENT_KEYS and has_value(entry.get(alias))]
        if not contents:
            return "the message has no content", "write it under 'content'"
        return None if value in contents else ("the message has another content", "keep one of them")
    if has_payload and not words.isdisjoint(_REASON_WORDS) and words.isdisjoint(_NO_REASONING):
        return "it seems to be reasoning", "rename it reasoning_content, or remove it"
    return None


def _merge_reasoning(reasoning: Mapping[str, Any], role: str, field: str, context: RowContext) -> str:
    """Return the reasoning text of a message; its reasoning keys must agree."""
    if role != "assistant":
        key = next(iter(reasoning))
        raise _refused_key(f"{field}.{key}", reasoning[key], f"a {role} message has no reasoning", "remove it", context)
    for key, value in reasoning.items():
        if not isinstance(value, str):
            raise _refused_key(f"{field}.{key}", value, "reasoning must be text", "write it as one text", context)
    if len({value.strip() for value in reasoning.values()}) > 1:
        first, second = list(reasoning)[:2]
        raise _refused_key(
            f"{field}.{second}", reasoning[second], f"'{first}' holds different reasoning", "keep one of them", context
        )
    return next(iter(reasoning.values()))


def _refused_key(field: str, value: Any, why: str, fix: str, context: RowContext) -> RowError:
    key = field.rpartition(".")[2]
    return RowError(
        where=context.where,
        reason=f"{key} of a message",
        problem=f"field {field!r} is {short_repr(value)}; {why}",
        fix=fix,
    )
