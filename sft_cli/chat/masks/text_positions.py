"""Where a template shows each text of a conversation.

The conversation is rendered once more with numbered, reserved characters around every text (content, reasoning, names,
argument keys and values, tool schemas); numbers become other numbers. Without these signs the rendering must be the one
that is trained; then they say where each text stands, whatever else in the conversation reads the same.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.chat.masks.sentinels import TRACE_DIGITS, TRACE_END, TRACE_START
from sft_cli.chat.template.reasoning_blocks import KEYS

TOOLS = -1
"""Stands for the tool schemas where other pieces have the index of their message."""
EDGE = 24
"""Characters at either end of a text that are left without signs where a template looks at beginnings and ends."""
_ESCAPE = re.compile(r"\\+u(fdd[56]|fde[0-9a-f])")
_INTEGER, _FLOAT = 731_000_000_000_000_000, 731_000_000_000.5
_SIGNS = re.compile(f"{TRACE_START}([{TRACE_DIGITS}]+)|({TRACE_END})|731000000000([0-9]{{6}})|731000([0-9]{{6}})[.]5")
_TAGS = re.compile(r"(</?think>)")


@dataclass(frozen=True, slots=True)
class Level:
    """How much of a conversation gets signs.

    Attributes:
        keys: Names, argument keys and numbers, too: templates may compare names and sort keys.
        inner: Only the inside of long texts: templates may look at how a text begins or ends.
    """

    keys: bool
    inner: bool


LEVELS = (Level(keys=True, inner=False), Level(keys=False, inner=False), Level(keys=False, inner=True))
"""From the most complete on; the first whose rendering is the trained one otherwise is read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of a conversation.

    Attributes:
        message: Index of its message, or ``TOOLS``.
        kind: ``content``, ``reasoning``, ``name``, ``key``, ``value``, ``number``, ``constant`` (true, false, null),
            ``arguments`` (of a call, as JSON text), ``description`` (of a tool) or ``tool`` (its names).
        text: The text as the template reads it, without white space at its ends.
        path: For a part of a tool call where it belongs: the number of the call, of the entry, ….
        signed: Whether it has signs.
    """

    message: int
    kind: str
    text: str
    path: tuple[int, ...] = ()
    signed: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Characters ``start`` to ``end`` of a rendering show a piece; ``text`` is how (as it is, or escaped)."""

    piece: int
    start: int
    end: int
    text: str


class Trace:
    """A conversation with signs.

    Attributes:
        messages: The messages as templates read them.
        tools: The tool schemas, or None.
        pieces: Its texts, by number.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, level: Level) -> None:
        self.pieces: list[Piece] = []
        self._level = level
        self.messages = [self._message(i, message) for i, message in enumerate(messages)]
        self.tools = None if tools is None else [self._tool(tool) for tool in tools]

    def read(self, shown: str) -> tuple[str, list[Place]] | None:
        """The rendering without signs, and the places of the pieces in order; None where signs are not in pairs."""
        if "\\u" in shown:
            shown = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), shown)
        pieces, places, length, done, opened = [], [], 0, 0, None
        for match in _SIGNS.finditer(shown):
            before = shown[done : match.start()]
            pieces.append(before)
            length, done = length + len(before), match.end()
            number = match[3] or match[4]
            if number is not None:
                if int(number) >= len(self.pieces) or opened is not None:
                    return None
                text = self.pieces[int(number)].text
                places.append(Place(int(number), length, length + len(text), text))
                pieces.append(text)
                length += len(text)
            elif match[1]:
                if opened is not None:
                    return None
                opened = (_number(match[1]), length)
            elif opened is None:
                return None
            else:
                places.append(Place(opened[0], opened[1], length, before))
                opened = None
        text = "".join([*pieces, shown[done:]])
        known = all(place.piece < len(self.pieces) for place in places)
        if opened is not None or not known:
            return None
        return text, ([self._whole(place, text) for place in places] if self._level.inner else places)

    def _whole(self, place: Place, text: str) -> Place:
        """The place of a piece whose signs surround its inside alone; as it is where the ends are not around it."""
        whole = self.pieces[place.piece].text
        if place.text == whole or not _is_long(whole):
            return place
        start, end = place.start - EDGE, place.end + EDGE
        return Place(place.piece, start, end, whole) if start >= 0 and text[start:end] == whole else place

    def _message(self, i: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message with signs."""
        found = dict(message)
        for key in KEYS:
            if isinstance(text := message.get(key), str):
                found[key] = self._sign(text, i, "reasoning")
        content = message.get("content")
        if isinstance(content, str):
            found["content"] = self._content(i, content, message["role"] == "assistant")
        elif isinstance(content, list):
            found["content"] = [self._part(i, part) for part in content]
        if message.get("tool_calls"):
            found["tool_calls"] = [self._call(i, c, call) for c, call in enumerate(message["tool_calls"])]
        return found

    def _content(self, i: int, content: str, answers: bool) -> str:
        """A content with signs; of an assistant's, reasoning between tags is a piece of its own."""
        if not answers or "</think>" not in content:
            return self._sign(content, i, "content")
        parts = _TAGS.split(content)
        kinds = ["reasoning" if after == "</think>" else "content" for after in [*parts[1::2], ""]]
        parts[::2] = [self._sign(text, i, kind) for text, kind in zip(parts[::2], kinds, strict=True)]
        return "".join(parts)

    def _part(self, i: int, part: Mapping[str, Any]) -> dict[str, Any]:
        """A content part with signs."""
        kinds = {"text": "content", "thinking": "reasoning"}
        signed = {key: self._sign(part[key], i, kind) for key, kind in kinds.items() if isinstance(part.get(key), str)}
        return {**part, **signed}

    def _call(self, i: int, c: int, call: Mapping[str, Any]) -> dict[str, Any]:
        """A tool call with signs."""
        inner = call.get("function", call)
        found = dict(inner)
        found["name"] = self._sign(str(inner["name"]), i, "name", (c,), self._level.keys)
        if "arguments" in inner:
            arguments = inner["arguments"]
            if isinstance(arguments, str):
                found["arguments"] = self._sign(arguments, i, "arguments", (c,))
            else:
                found["arguments"] = self._value(arguments, i, (c,))
        return {**call, "function": found} if "function" in call else found

    def _value(self, value: Any, i: int, path: tuple[int, ...]) -> Any:
        """An argument with signs."""
        if isinstance(value, str):
            return self._sign(value, i, "value", path)
        if isinstance(value, Mapping):
            signed = {}
            for e, (key, item) in enumerate(value.items()):
                name = self._sign(str(key), i, "key", (*path, e), self._level.keys)
                signed[name] = self._value(item, i, (*path, e))
            return signed
        if isinstance(value, list | tuple):
            return [self._value(item, i, (*path, e)) for e, item in enumerate(value)]
        number = len(self.pieces)
        if value is None or isinstance(value, bool) or not (isinstance(value, int | float) and number < 1_000_000):
            self.pieces.append(Piece(i, "constant", json.dumps(value, default=str), path, signed=False))
            return value
        self.pieces.append(Piece(i, "number", json.dumps(value), path, self._level.keys))
        if not self._level.keys:
            return value
        return _INTEGER + number if isinstance(value, int) else _FLOAT + number

    def _tool(self, tool: Any) -> Any:
        """A tool schema with signs around its name, its description and the names of its parameters."""
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping):
            return tool
        found = dict(inner)
        for key, kind, signed in (("name", "tool", self._level.keys), ("description", "description", True)):
            if isinstance(inner.get(key), str):
                found[key] = self._sign(inner[key], TOOLS, kind, (), signed)
        parameters = inner.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping):
            assert isinstance(parameters, Mapping)
            names = {key: self._sign(str(key), TOOLS, "tool", (), self._level.keys) for key in properties}
            required = parameters.get("required")
            more = {"required": [names.get(one, one) for one in required]} if isinstance(required, list) else {}
            signed_properties = {names[key]: value for key, value in properties.items()}
            found["parameters"] = {**parameters, "properties": signed_properties, **more}
        return {**tool, "function": found} if "function" in tool else found

    def _sign(self, text: str, message: int, kind: str, path: tuple[int, ...] = (), signed: bool = True) -> str:
        """A text with signs around all but the white space at its ends; blank text as it is."""
        core = text.strip()
        if not core:
            return text
        number = len(self.pieces)
        self.pieces.append(Piece(message, kind, core, path, signed))
        if not signed:
            return text
        start = text.index(core)
        end = start + len(core)
        if self._level.inner and _is_long(core):
            start, end = start + EDGE, end - EDGE
        return f"{text[:start]}{TRACE_START}{_digits(number)}{text[start:end]}{TRACE_END}{text[end:]}"


def shows(shown: str, text: str) -> bool:
    """Whether what a template wrote is the text: as it is, or escaped once or twice as JSON or Python do."""
    for _ in range(3):
        if shown == text:
            return True
        plain = unescaped(shown)
        if plain is None or plain == shown:
            return False
        shown = plain
    return False


def unescaped(text: str) -> str | None:
    """A text without the escapes of a JSON or Python string; None if it holds others."""
    if "\\" not in text:
        return text
    try:
        return json.loads(f'"{text}"', strict=False)
    except ValueError:
        pass
    try:
        return ast.literal_eval(f"'{text}'")
    except (ValueError, SyntaxError):
        return None


def _is_long(text: str) -> bool:
    """Whether a text has an inside."""
    return len(text) > 2 * EDGE + 1


def _digits(number: int) -> str:
    """A number in reserved characters."""
    return "".join(TRACE_DIGITS[int(digit, 16)] for digit in f"{number:x}")


def _number(digits: str) -> int:
    """The number that reserved characters stand for."""
    return int("".join(f"{TRACE_DIGITS.index(digit):x}" for digit in digits), 16)
