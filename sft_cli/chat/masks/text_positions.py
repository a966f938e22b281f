"""Locate each text of a conversation in its rendering.

The conversation is rendered a second time with numbered sentinels (reserved characters) around every text: content,
reasoning, names, argument keys and values, tool schemas. Numbers are replaced by other numbers. Without the sentinels
the rendering must equal the trained one; then they give the position of each text, even if the same text occurs twice.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.chat.masks.sentinels import TRACE_DIGITS, TRACE_END, TRACE_START
from sft_cli.chat.template.reasoning_blocks import REASONING_KEYS

TOOLS = -1
"""Message index of pieces that belong to the tool schemas."""
EDGE = 24
"""Characters at either end of a text outside the sentinels, for templates that check how a text begins or ends."""
_ESCAPE = re.compile(r"\\+u(fdd[56]|fde[0-9a-f])")
_INTEGER, _FLOAT = 731_000_000_000_000_000, 731_000_000_000.5
_SENTINELS = re.compile(
    f"{TRACE_START}([{TRACE_DIGITS}]+)|({TRACE_END})|731000000000([0-9]{{6}})|731000([0-9]{{6}})[.]5"
)
_TAGS = re.compile(r"(</?think>)")


@dataclass(frozen=True, slots=True)
class TraceLevel:
    """The parts of a conversation that get sentinels.

    Attributes:
        keys: Also names, argument keys and numbers. Templates may compare names and sort keys.
        inner: Only the inside of long texts. Templates may check how a text begins or ends.
    """

    keys: bool
    inner: bool


LEVELS = (TraceLevel(keys=True, inner=False), TraceLevel(keys=False, inner=False), TraceLevel(keys=False, inner=True))
"""The most complete level first; the first one that does not change the rendering is used."""


@dataclass(frozen=True, slots=True)
class TracedPiece:
    """One text of a conversation.

    Attributes:
        message: Index of its message, or ``TOOLS``.
        kind: ``content``, ``reasoning``, ``name``, ``key``, ``value``, ``number``, ``constant`` (true, false, null),
            ``arguments`` (of a call, as JSON text), ``description`` (of a tool) or ``tool`` (its names).
        text: The text as the template reads it, stripped of white space.
        path: Its place in a tool call: the number of the call, of the entry, ….
        has_sentinels: Whether it is wrapped in sentinels.
    """

    message: int
    kind: str
    text: str
    path: tuple[int, ...] = ()
    has_sentinels: bool = True


@dataclass(frozen=True, slots=True)
class PiecePosition:
    """Characters ``start`` to ``end`` of a rendering show a piece as ``text``: literally or escaped."""

    piece: int
    start: int
    end: int
    text: str


class Trace:
    """A conversation with sentinels.

    Attributes:
        messages: The messages as templates read them.
        tools: The tool schemas, or None.
        pieces: Its texts, by number.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, level: TraceLevel) -> None:
        self.pieces: list[TracedPiece] = []
        self._level = level
        self.messages = [self._message(i, message) for i, message in enumerate(messages)]
        self.tools = None if tools is None else [self._tool(tool) for tool in tools]

    def read(self, rendered: str) -> tuple[str, list[PiecePosition]] | None:
        """Return the rendering without sentinels and the positions of the pieces; None if sentinels are unpaired."""
        if "\\u" in rendered:
            rendered = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), rendered)
        pieces, positions, length, done, open_piece = [], [], 0, 0, None
        for match in _SENTINELS.finditer(rendered):
            before = rendered[done : match.start()]
            pieces.append(before)
            length, done = length + len(before), match.end()
            number = match[3] or match[4]
            if number is not None:
                if int(number) >= len(self.pieces) or open_piece is not None:
                    return None
                text = self.pieces[int(number)].text
                positions.append(PiecePosition(int(number), length, length + len(text), text))
                pieces.append(text)
                length += len(text)
            elif match[1]:
                if open_piece is not None:
                    return None
                open_piece = (_number(match[1]), length)
            elif open_piece is None:
                return None
            else:
                positions.append(PiecePosition(open_piece[0], open_piece[1], length, before))
                open_piece = None
        text = "".join([*pieces, rendered[done:]])
        all_known = all(position.piece < len(self.pieces) for position in positions)
        if open_piece is not None or not all_known:
            return None
        return text, ([self._widen(position, text) for position in positions] if self._level.inner else positions)

    def _widen(self, position: PiecePosition, text: str) -> PiecePosition:
        """Widen the position of a piece whose sentinels surround only its inside, if its ends are around it."""
        full_text = self.pieces[position.piece].text
        if position.text == full_text or not _is_long(full_text):
            return position
        start, end = position.start - EDGE, position.end + EDGE
        return (
            PiecePosition(position.piece, start, end, full_text)
            if start >= 0 and text[start:end] == full_text
            else position
        )

    def _message(self, i: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message with sentinels."""
        result = dict(message)
        for key in REASONING_KEYS:
            if isinstance(text := message.get(key), str):
                result[key] = self._wrap(text, i, "reasoning")
        content = message.get("content")
        if isinstance(content, str):
            result["content"] = self._content(i, content, message["role"] == "assistant")
        elif isinstance(content, list):
            result["content"] = [self._part(i, part) for part in content]
        if message.get("tool_calls"):
            result["tool_calls"] = [self._call(i, c, call) for c, call in enumerate(message["tool_calls"])]
        return result

    def _content(self, i: int, content: str, answers: bool) -> str:
        """Return a content with sentinels; in an assistant's, reasoning between tags is a separate piece."""
        if not answers or "</think>" not in content:
            return self._wrap(content, i, "content")
        parts = _TAGS.split(content)
        kinds = ["reasoning" if after == "</think>" else "content" for after in [*parts[1::2], ""]]
        parts[::2] = [self._wrap(text, i, kind) for text, kind in zip(parts[::2], kinds, strict=True)]
        return "".join(parts)

    def _part(self, i: int, part: Mapping[str, Any]) -> dict[str, Any]:
        """Return a content part with sentinels."""
        kinds = {"text": "content", "thinking": "reasoning"}
        wrapped = {key: self._wrap(part[key], i, kind) for key, kind in kinds.items() if isinstance(part.get(key), str)}
        return {**part, **wrapped}

    def _call(self, i: int, c: int, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool call with sentinels."""
        inner = call.get("function", call)
        result = dict(inner)
        result["name"] = self._wrap(str(inner["name"]), i, "name", (c,), self._level.keys)
        if "arguments" in inner:
            arguments = inner["arguments"]
            if isinstance(arguments, str):
                result["arguments"] = self._wrap(arguments, i, "arguments", (c,))
            else:
                result["arguments"] = self._value(arguments, i, (c,))
        return {**call, "function": result} if "function" in call else result

    def _value(self, value: Any, i: int, path: tuple[int, ...]) -> Any:
        """Return an argument with sentinels."""
        if isinstance(value, str):
            return self._wrap(value, i, "value", path)
        if isinstance(value, Mapping):
            wrapped = {}
            for e, (key, item) in enumerate(value.items()):
                name = self._wrap(str(key), i, "key", (*path, e), self._level.keys)
                wrapped[name] = self._value(item, i, (*path, e))
            return wrapped
        if isinstance(value, list | tuple):
            return [self._value(item, i, (*path, e)) for e, item in enumerate(value)]
        number = len(self.pieces)
        if value is None or isinstance(value, bool) or not (isinstance(value, int | float) and number < 1_000_000):
            self.pieces.append(TracedPiece(i, "constant", json.dumps(value, default=str), path, has_sentinels=False))
            return value
        self.pieces.append(TracedPiece(i, "number", json.dumps(value), path, self._level.keys))
        if not self._level.keys:
            return value
        return _INTEGER + number if isinstance(value, int) else _FLOAT + number

    def _tool(self, tool: Any) -> Any:
        """Return a tool schema with sentinels around its name, its description and the names of its parameters."""
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping):
            return tool
        result = dict(inner)
        for key, kind, is_wrapped in (("name", "tool", self._level.keys), ("description", "description", True)):
            if isinstance(inner.get(key), str):
                result[key] = self._wrap(inner[key], TOOLS, kind, (), is_wrapped)
        parameters = inner.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping):
            assert isinstance(parameters, Mapping)
            names = {key: self._wrap(str(key), TOOLS, "tool", (), self._level.keys) for key in properties}
            required = parameters.get("required")
            more = (
                {"required": [names.get(parameter, parameter) for parameter in required]}
                if isinstance(required, list)
                else {}
            )
            wrapped_properties = {names[key]: value for key, value in properties.items()}
            result["parameters"] = {**parameters, "properties": wrapped_properties, **more}
        return {**tool, "function": result} if "function" in tool else result

    def _wrap(self, text: str, message: int, kind: str, path: tuple[int, ...] = (), is_wrapped: bool = True) -> str:
        """Wrap a text, without the white space at its ends, in sentinels; blank text is unchanged."""
        core = text.strip()
        if not core:
            return text
        number = len(self.pieces)
        self.pieces.append(TracedPiece(message, kind, core, path, is_wrapped))
        if not is_wrapped:
            return text
        start = text.index(core)
        end = start + len(core)
        if self._level.inner and _is_long(core):
            start, end = start + EDGE, end - EDGE
        return f"{text[:start]}{TRACE_START}{_digits(number)}{text[start:end]}{TRACE_END}{text[end:]}"


def is_spelling_of(written: str, text: str) -> bool:
    """Return whether a template wrote the text: literally, or escaped once or twice as in JSON or Python."""
    for _ in range(3):
        if written == text:
            return True
        unescaped_text = unescape(written)
        if unescaped_text is None or unescaped_text == written:
            return False
        written = unescaped_text
    return False


def unescape(text: str) -> str | None:
    """Return a text without the escapes of a JSON or Python string; None if it contains invalid ones."""
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
    """Return whether a text is long enough to have an inside."""
    return len(text) > 2 * EDGE + 1


def _digits(number: int) -> str:
    """Write a number in reserved characters."""
    return "".join(TRACE_DIGITS[int(digit, 16)] for digit in f"{number:x}")


def _number(digits: str) -> int:
    """Read a number in reserved characters."""
    return int("".join(f"{TRACE_DIGITS.index(digit):x}" for digit in digits), 16)
