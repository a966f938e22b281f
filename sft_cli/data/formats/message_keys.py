"""What the keys of a message mean: each is read, refused because it changes what the message is, or noted as not read.

No key vanishes: see ``read_message_keys``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sft_cli.data.formats.loss_flags import is_loss_flag, loss_weight
from sft_cli.data.formats.row_context import RowContext, has_value, key_words
from sft_cli.data.row_errors import RowError, short_repr

PASSED_KEYS = ("name", "tool_call_id")
"""Keys that go to the template as they are; hardly a template shows the name of anyone but a tool."""
REASONING_KEYS = (
    "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think", "analysis", "cot",
    "chain_of_thought", "rationale", "reasoning_text", "thinking_content", "thought_process", "inner_thoughts",
    "tool_plan",
)  # fmt: skip
"""Keys under which data sets keep the reasoning of an answer."""
CHANNEL_KEYS = ("channel", "recipient")
"""Keys of harmony messages (gpt-oss): where the content goes."""
CONTENT_KEYS = (
    "content", "value", "text", "message", "body", "utterance", "output", "answer", "response", "completion", "refusal",
    "parts",
)  # fmt: skip
"""Other names for what a message says."""

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
_DROP = "or leave such rows out with data.on_bad_row=drop"


@dataclass(frozen=True, slots=True)
class MessageKeys:
    """What the keys of a message say besides its role, content and tool calls.

    Attributes:
        weight: Factor on its loss; None when nothing is said about it.
        extra: What goes to the template: ``name``, ``tool_call_id``, ``reasoning_content``.
        channels: ``channel`` and ``recipient`` of a harmony message.
    """

    weight: float | None
    extra: dict[str, Any]
    channels: Mapping[str, str]


def read_message_keys(
    entry: Mapping[str, Any], read: Collection[str], role: str, field: str, names: str, context: RowContext
) -> MessageKeys:
    """The keys of a message, each read, noted as not read, or the reason to refuse it.

    Args:
        entry: The message.
        read: Keys that are read elsewhere.
        role: Its role.
        field: Its place, for errors: ``messages[3]``.
        names: Its place, for the notes: ``messages[]``.
        context: The row, which takes the notes.

    Raises:
        RowError: A key changes what the message is in a way that cannot be trained, or two contradict each other.
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
    """Note the keys of a part of content, or of a tool call, that nothing reads; refuse what changes its meaning."""
    for key, value in part.items():
        if key in read or not has_value(value):
            continue
        problem = _why_refused(key, value, part, read)
        if problem is not None:
            raise _refused_key(f"{field}.{key}", value, *problem, context)
        context.not_read.add(f"{names}.{key}")


def other_text_keys(entry: Mapping[str, Any]) -> list[str]:
    """Keys of a message without content that hold a text."""
    return [
        key
        for key, value in entry.items()
        if key not in ("role", "from") and isinstance(value, str) and has_value(value)
    ]


def _why_refused(key: str, value: Any, entry: Mapping[str, Any], read: Collection[str]) -> tuple[str, str] | None:
    """What a key speaks of that cannot be left out in silence, and what to do; None if it is only unread."""
    name, words = "_".join(key_words(key)), set(key_words(key))
    says = not isinstance(value, bool | int | float)
    if says and not words.isdisjoint(_MEDIA):
        return "only text can be trained on", f"describe it in the content, {_DROP}"
    if not words.isdisjoint(_PREFERENCE_WORDS):
        problem = "a message is trained by its weight, not by its label"
        return problem, f"write weight: 1 or 0, or remove the key, {_DROP}"
    if name in _MISPLACED:
        return "no template reads it in a message", f"{_MISPLACED[name]}, {_DROP}"
    if name in CONTENT_KEYS and isinstance(value, str | list):
        contents = [entry[other] for other in read if other in CONTENT_KEYS and has_value(entry.get(other))]
        if not contents:
            return "the message has no content", f"write it under 'content', {_DROP}"
        return None if value in contents else ("the message has another content", f"keep one of them, {_DROP}")
    if says and not words.isdisjoint(_REASON_WORDS) and words.isdisjoint(_NO_REASONING):
        return "it seems to be reasoning", f"rename it reasoning_content, or remove it, {_DROP}"
    return None


def _merge_reasoning(found: Mapping[str, Any], role: str, field: str, context: RowContext) -> str:
    """The one text of reasoning of a message."""
    if role != "assistant":
        key = next(iter(found))
        raise _refused_key(
            f"{field}.{key}", found[key], f"a {role} message has no reasoning", f"remove it, {_DROP}", context
        )
    for key, value in found.items():
        if not isinstance(value, str):
            raise _refused_key(f"{field}.{key}", value, "reasoning is text", f"write it as one text, {_DROP}", context)
    if len({value.strip() for value in found.values()}) > 1:
        first, second = list(found)[:2]
        raise _refused_key(
            f"{field}.{second}", found[second], f"'{first}' holds another reasoning", "keep one of them", context
        )
    return next(iter(found.values()))


def _refused_key(field: str, value: Any, why: str, fix: str, context: RowContext) -> RowError:
    key = field.rpartition(".")[2]
    return RowError(
        where=context.where,
        reason=f"{key} of a message",
        problem=f"field {field!r} is {short_repr(value)}; {why}",
        fix=fix,
    )
