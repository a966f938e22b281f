"""Rows of recorded traffic: each complete chat answer, with the conversation before it, as a messages row."""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError

CHAT = "/v1/chat/completions"
COMPLETE = ("stop", "tool_calls")
"""Reasons with which a complete answer ends; others mean that it was cut."""
TEXTS = ("content", "reasoning_content")


class Recorder:
    """Appends rows to a JSONL file; several threads may use it."""

    def __init__(self, file: Path) -> None:
        self.file, self.rows, self.skipped = file, 0, 0
        self._lock = threading.Lock()
        try:
            file.touch()
        except OSError as error:
            raise SftError(
                where=f"--record {file}",
                problem=f"the file cannot be written: {error.strerror}",
                fix="--record rows.jsonl",
            ) from error

    def record(self, request: bytes, content_type: str, reply: bytes) -> None:
        """Append the rows of one request: one for each complete answer.

        Args:
            request: Body of the request.
            content_type: Content type of the reply; ``text/event-stream`` for a streamed one.
            reply: The whole body of the reply.
        """
        try:
            asked = json.loads(request)
            read = read_events if content_type.startswith("text/event-stream") else read_reply
            answers = list(read(reply))
        except (ValueError, KeyError, TypeError):
            answers, asked = [(None, None)], {}
        with self._lock, self.file.open("a", encoding="utf-8") as stream:
            for answer, reason in answers:
                if reason not in COMPLETE or answer is None or not has_text(answer):
                    self.skipped += 1
                    continue
                row = {"messages": [*asked["messages"], answer]}
                row |= {"tools": asked["tools"]} if asked.get("tools") else {}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                self.rows += 1


def has_text(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer has content or calls a tool."""
    return bool(answer.get("content") or answer.get("tool_calls"))


def read_reply(reply: bytes) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield message and finish reason of each choice of a reply."""
    for choice in json.loads(reply)["choices"]:
        yield clean_message(choice["message"]), choice.get("finish_reason")


def read_events(reply: bytes) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield message and finish reason of each choice of a streamed reply."""
    messages: dict[int, dict[str, Any]] = {}
    reasons: dict[int, str | None] = {}
    for line in reply.decode("utf-8").splitlines():
        if not line.startswith("data:") or (data := line.removeprefix("data:").strip()) == "[DONE]":
            continue
        for choice in json.loads(data)["choices"]:
            index = choice.get("index", 0)
            add_delta(messages.setdefault(index, {}), choice.get("delta") or {})
            reasons[index] = choice.get("finish_reason") or reasons.get(index)
    for index, message in sorted(messages.items()):
        calls = [call for _, call in sorted(message.pop("calls", {}).items())]
        yield clean_message({**message, "tool_calls": calls}), reasons[index]


def add_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a part of a streamed message to it; calls are collected by their index."""
    for key in TEXTS:
        if delta.get(key):
            message[key] = message.get(key, "") + delta[key]
    for part in delta.get("tool_calls") or ():
        call = message.setdefault("calls", {}).setdefault(part.get("index", 0), {"name": "", "arguments": ""})
        call |= {"id": part["id"]} if part.get("id") else {}
        for key in ("name", "arguments"):
            call[key] += (part.get("function") or {}).get(key) or ""


def clean_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer with the keys that rows have."""
    row: dict[str, Any] = {"role": "assistant", "content": message.get("content") or ""}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    row |= {"reasoning_content": reasoning} if reasoning else {}
    calls = [clean_call(call) for call in message.get("tool_calls") or ()]
    return row | ({"tool_calls": calls} if calls else {})


def clean_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with id, type and function."""
    function = call.get("function") or call
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": {key: function[key] for key in ("name", "arguments")}}
