"""Find the pieces of messages in rendered texts: spellings, places, and missing or doubled pieces."""

import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

KEYS = ("reasoning_content", "reasoning", "thinking")
TAGGED = re.compile(r"\s*<think>\s*(.*?)\s*</think>(?:[ \t]*\n+|[ \t]*)(.*)\Z", re.DOTALL)
CLOSED = re.compile(r"(</think>|\[/THINK\]|<channel\|>|<\|END_THINKING\|>|<\|inner_suffix\|>)\s*\Z")
CLOSES = re.compile(r"\s*(</think>|\[/THINK\]|<channel\|>|<\|END_THINKING\|>)")
OPEN = re.compile(r"(<think>|\[THINK\]|<\|channel>thought|<\|START_THINKING\|>)\s*\Z")
Messages = list[dict[str, Any]]
Place = tuple[int, int] | None


@dataclass(frozen=True)
class Piece:
    """A text that an answer or a context must contain once, in one of its spellings; ``kind`` is for messages."""

    kind: str
    spellings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.spellings[0]!r}"


@dataclass(frozen=True)
class Turn:
    """An assistant turn: its index, the text before it, its text with the stop token, and that stop token."""

    index: int
    context: str
    answer: str
    stop: str


@cache
def spellings(text: str) -> tuple[str, ...]:
    """Return the spellings of a text in templates: unchanged, stripped, inside JSON, Python or HTML."""
    found = [text, text.strip(), text.lstrip(), text.rstrip()]
    for one in found[:2]:
        inside = json.dumps(one, ensure_ascii=False)[1:-1]
        found += [inside, json.dumps(one)[1:-1], repr(one)[1:-1], one.replace("'", "\\'")]
        found += [html.escape(one), html.escape(inside), json.dumps(inside, ensure_ascii=False)[1:-1]]
    found += [unicodedata.normalize("NFC", one) for one in found]
    return tuple(dict.fromkeys(one for one in found if one))


def leaves(value: Any) -> Iterator[Any]:
    """Return the scalar values of an argument object, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def written(value: Any) -> tuple[str, ...]:
    """Return the spellings of an argument value in templates."""
    if isinstance(value, str):
        return spellings(value)
    return tuple(dict.fromkeys([json.dumps(value), str(value), str(value).lower()]))


def reasoning_of(message: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return each reasoning text of an assistant message once, and its content without."""
    content = message["content"] or ""
    found = [message[key].strip() for key in KEYS if isinstance(message.get(key), str)]
    if match := TAGGED.match(content):
        found, content = [*found, match[1]], match[2]
    return list(dict.fromkeys(text for text in found if text)), content


def calls_of(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return name and parsed arguments of each call."""
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function["arguments"]
        found.append((function["name"], json.loads(arguments) if isinstance(arguments, str) else arguments))
    return found


def pieces_of(message: Mapping[str, Any], by_key: bool = False) -> list[Piece]:
    """Return the required pieces of an assistant message's answer, in order; ``by_key``: values sorted by key."""
    reasoning, content = reasoning_of(message)
    found = [Piece("reasoning", spellings(text)) for text in reasoning]
    if content.strip():
        found.append(Piece("content", spellings(content)))
    for name, arguments in calls_of(message):
        found.append(Piece("name", (name,)))
        arguments = dict(sorted(arguments.items())) if by_key else arguments
        found += [Piece("value", written(value)) for value in leaves(arguments) if written(value)]
    return found


def occurrences(piece: str, text: str, words: bool = True) -> Iterator[tuple[int, int]]:
    """Return the places of a piece in a text; with ``words``, not as a part of a word."""
    at = text.find(piece)
    while at >= 0:
        end = at + len(piece)
        before = words and at > 0 and is_word(piece[0]) and is_word(text[at - 1])
        after = words and end < len(text) and is_word(piece[-1]) and is_word(text[end])
        if not before and not after:
            yield at, end
        at = text.find(piece, end if not before and not after else at + 1)


def is_word(letter: str) -> bool:
    """Return whether a character is part of a word."""
    return letter.isalnum() or letter == "_"


def occurs(piece: Piece, text: str) -> bool:
    """Return whether a text contains a piece in any spelling."""
    return any(one in text and any(occurrences(one, text)) for one in piece.spellings)


def matched(pieces: Sequence[Piece], text: str) -> tuple[list[Place], str]:
    """Return the place of each piece, without overlaps, longest first; and the text with NULs in those places."""
    places: list[Place] = [None] * len(pieces)
    for i in sorted(range(len(pieces)), key=lambda i: -len(pieces[i].spellings[0])):
        known = [one for one in pieces[i].spellings if one in text]
        options = [place for one in known for place in occurrences(one, text)]
        if not options:  # a template may write a role directly before a text
            options = [place for one in known if len(one) > 1 for place in occurrences(one, text, words=False)]
        if options:
            start, end = places[i] = min(options, key=lambda place: (place[0], -place[1]))
            text = text[:start] + "\0" * (end - start) + text[end:]
    return places, text


def doubled(piece: Piece, pieces: Sequence[Piece], rest: str) -> bool:
    """Return whether the remaining text contains a piece again; a template may write the names of all calls twice."""
    more = max(len(list(occurrences(one, rest))) for one in piece.spellings)
    if piece.kind != "name":
        return bool(more)
    others = [other for other in pieces if other.kind == "name"]
    return bool(more) and not all(len(list(occurrences(one.spellings[0], rest))) == others.count(one) for one in others)


def account(messages: Messages, tools: Any, turn: Turn) -> list[str]:
    """Return the errors of a turn by its texts alone."""
    body = turn.answer.removesuffix(turn.stop)
    pieces = pieces_of(messages[turn.index])
    places, rest = matched(pieces, body)
    wrong = [f"not trained: {piece}" for piece, place in zip(pieces, places, strict=True) if place is None]
    wrong += [f"trained twice: {piece}" for piece in pieces if doubled(piece, pieces, rest)]
    if not in_order(pieces, places) and not in_order(*by_key(messages[turn.index], body)):
        wrong.append("the pieces of the answer are in another order")
    reasons = bool(pieces) and pieces[0].kind == "reasoning"
    if reasons and CLOSED.search(turn.context):
        wrong.append("reasons after a closed block")
    if not reasons and OPEN.search(turn.context) and not CLOSES.match(turn.answer):  # an empty block is fine
        wrong.append("the prompt opens the reasoning, and there is none")
    for i, other in enumerate(messages):
        if i != turn.index:
            reasoning, content = reasoning_of(other) if other["role"] == "assistant" else ([], other["content"])
            texts = [Piece("", spellings(text)) for text in (*reasoning, content) if text.strip()]
            wrong += [f"message {i + 1} occurs in the answer" for text in texts if occurs(text, rest)]
    return wrong + context_account(messages[: turn.index], tools, turn.context)


def by_key(message: Mapping[str, Any], body: str) -> tuple[list[Piece], list[Place]]:
    """Return the pieces of an answer with the arguments in the order of their keys, and their places."""
    pieces = pieces_of(message, by_key=True)
    return pieces, matched(pieces, body)[0]


def in_order(pieces: Sequence[Piece], places: Sequence[Place]) -> bool:
    """Return whether pieces are in order; texts that are part of another piece's may be anywhere."""
    texts = [piece.spellings[0] for piece in pieces]
    alone = [i for i, one in enumerate(texts) if not any(one in text for j, text in enumerate(texts) if i != j)]
    found = [place for i in alone if (place := places[i]) is not None]
    return found == sorted(found)


def context_account(messages: Messages, tools: Any, context: str) -> list[str]:
    """Return messages and tools that the text before a turn omits, or contains twice."""
    pieces: list[Piece] = []
    wanted: list[str] = []
    optional: list[Piece] = []  # reasoning of earlier turns, which many templates leave out
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            own = [piece for piece in pieces_of(message) if piece.kind != "reasoning"]
            optional += [piece for piece in pieces_of(message) if piece.kind == "reasoning"]
        else:
            own = [Piece("content", spellings(message["content"]))] if message["content"].strip() else []
        pieces += own
        wanted += [f"{message['role']} message {i + 1}"] * len(own)
    places, rest = matched([*pieces, *optional], context)
    wrong = [f"not shown: {name}" for name, place in zip(wanted, places, strict=False) if place is None]
    whole = [(name, piece) for name, piece in zip(wanted, pieces, strict=True) if piece.kind == "content"]
    wrong += [f"shown twice: {name}" for name, piece in whole if occurs(piece, rest)]
    # A system message may move to the last question, and what an answer says is in any order where it is not trained.
    fixed = [
        piece.kind == "content" and not name.startswith("system") for name, piece in zip(wanted, pieces, strict=True)
    ]
    fixed += [False] * len(optional)
    if not in_order(
        [*pieces, *optional], [place if stays else None for place, stays in zip(places, fixed, strict=True)]
    ):
        wrong.append("the messages are in another order")
    for tool in tools or ():
        function = tool.get("function", tool)
        parameters = (function.get("parameters") or {}).get("properties") or {}
        for text in (function["name"], function.get("description", ""), *parameters):
            if text and not any(one in context for one in spellings(text)):
                wrong.append(f"not shown: tool's {text!r}")
    return wrong
