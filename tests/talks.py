"""Strategies of random conversations: roles, tools, parallel calls, reasoning, weights, texts like markup.

Every text holds a word of its own, or is one of a few words that other texts are, too.
"""

import json
import re
from typing import Any

from hypothesis import strategies as st

from sft_cli.types import Conversation, Message

COMMON = ("Zagreb", "71", "Tirana", "Quito 71")
TAME = ("a", "\u00e9", " ", "\n", "\U0001f600", "'", '"', "\\", "\u0301", "\t", "&", "1", ": ", "]")
MARKUP = (
    *("<|im_end|>", "<|im_start|>", "</s>", "<s>", "[INST]", "<|eot|>", "<end_of_turn>", "[TOOL_CALLS]", "<|im_"),
    *(
        "<think>",
        "</think>",
        '{"city": "',
        '"}',
        "{{ m }}",
        "{% if %}",
        "\r\n",
        "\u2028",
        "&#34;",
        "<tool_call>",
        "system",
    ),
)
NAMES = ("get_sky", "ask_clock", "find_way")
KEYS = ("reasoning_content", "reasoning", "thinking")


class _Words:
    """Words that occur once in a conversation."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"wd{self.count:02}x"


def _text(draw: Any, words: _Words, wild: bool) -> str:
    """Return a text with a unique word, or a common one."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(COMMON))
    parts = st.lists(st.sampled_from(TAME + MARKUP) if wild else st.sampled_from(TAME), max_size=3).map("".join)
    return draw(parts) + words() + draw(parts)


def _value(draw: Any, words: _Words, wild: bool, depth: int = 0) -> Any:
    """Return an argument value: mostly a text, number or boolean; sometimes null, a list or an object of such."""
    kind = draw(st.integers(0, 9 if depth == 0 else 6))
    if kind == 7:
        return [_value(draw, words, wild, 1) for _ in range(draw(st.integers(0, 2)))]
    if kind > 7:
        return {f"of{i}": _value(draw, words, wild, 1) for i in range(draw(st.integers(1, 2)))}
    if kind > 3:
        return draw(st.sampled_from([71, -3, 0, 2.5, 10**12, True, False, None, "", "true", "null"]))
    return _text(draw, words, wild)


def _calls(draw: Any, words: _Words, wild: bool) -> list[dict[str, Any]]:
    """Return one to three calls, with arguments as objects or JSON text."""
    found = []
    as_text = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        arguments = {f"key{i}": _value(draw, words, wild) for i in range(draw(st.integers(0, 3)))}
        written = json.dumps(arguments, ensure_ascii=draw(st.booleans())) if as_text else arguments
        function = {"name": draw(st.sampled_from(NAMES)), "arguments": written}
        found.append({"id": f"call{words()}"[:9], "type": "function", "function": function})
    return found


def _answer(draw: Any, words: _Words, wild: bool, calls: list[dict[str, Any]]) -> Message:
    """Return an answer with reasoning in one of its places, or without."""
    content = "" if calls and draw(st.booleans()) else _text(draw, words, wild)
    extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
    place = draw(st.sampled_from([None, None, *KEYS, "tags", "both", "blank"]))
    reasoning = _text(draw, words, False) if place else ""
    if place in KEYS:
        extra[place] = reasoning
    elif place == "blank":
        extra["reasoning_content"] = draw(st.sampled_from(["", " \n"]))
    elif place:
        content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        if place == "both":
            extra["reasoning_content"] = reasoning
    return Message("assistant", content, draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0])), extra)


@st.composite
def conversations(draw: Any, wild: bool = True) -> Conversation:
    """A system message or none, then one to three questions, each answered at once or after calls; tools or none."""
    words = _Words()
    messages = [Message("system", _text(draw, words, wild))] if draw(st.booleans()) else []
    called = False
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", _text(draw, words, wild)))
        if draw(st.booleans()):
            called = True
            calls = _calls(draw, words, wild)
            messages.append(_answer(draw, words, wild, calls))
            for call in calls:
                named = {"name": call["function"]["name"], "tool_call_id": call["id"]}
                messages.append(Message("tool", _text(draw, words, wild), extra=named))
        messages.append(_answer(draw, words, wild, []))
    last = messages[-1]
    messages[-1] = Message("assistant", last.content, 1.0, last.extra)
    tools = None
    if called or draw(st.booleans()):
        tools = tuple(_tool(name, words()) for name in NAMES)
    return Conversation(tuple(messages), "rows.jsonl:7", "mine", tools)


def is_ambiguous(conversation: Conversation) -> bool:
    """Return whether a stray tag in an answer makes its reasoning ambiguous."""
    answers = [one.content for one in conversation.messages if one.role == "assistant"]
    return any(
        re.search("</?think>", re.sub(r"\A<think>\n.*?\n</think>\n\n", "", one, flags=re.DOTALL)) for one in answers
    )


def _tool(name: str, word: str) -> dict[str, Any]:
    properties = {f"key{i}": {"type": "string"} for i in range(3)}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": f"It does {word}.", "parameters": parameters}}
