"""What of an answer is seen but not trained: its reasoning, and what the regular expressions of the rules match.

Where that stands in the rendered text is not searched for, it is seen: the message is rendered once more with reserved
characters around the ranges, and without them the text must be the same.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sft_cli.chat.masks.sentinels import SIGNS, muted, places
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import TemplateRefusal
from sft_cli.chat.template.message_variants import PARTS
from sft_cli.config.schema.data import DataConfig
from sft_cli.types import Message

_EMPTY_BLOCK = re.compile(r"\s*(?:<think>)?\s*</think>")
_OPENING, _CLOSING = re.compile(r"<think>\s*\Z"), re.compile(r"\s*</think>")
Range = tuple[int, int]


class _Quiet(NamedTuple):
    """Characters of a message's text that must not train, and the white space around them that must not either.

    Templates trim white space at the edges of a text, so that only what stands between carries the signs.
    """

    start: int
    end: int
    before: str
    behind: str
    reasoning: bool


class Muter:
    """Finds the ranges that must not train, by one set of rules."""

    def __init__(self, data: DataConfig) -> None:
        self._patterns = [re.compile(pattern) for pattern in data.no_loss_patterns]
        self._reasoning = not data.train_on_reasoning
        self.active = bool(self._patterns) or self._reasoning

    def ranges(
        self, said: Message, marked: Mapping[str, Any], text: str, answer: Range, render: Callable[[dict], str]
    ) -> tuple[Range, ...]:
        """The muted ranges of a turn, in order and apart.

        Args:
            said: The assistant message.
            marked: The same as the template reads it, its special-token strings marked.
            text: The rendering up to and with the message.
            answer: Where the answer stands in ``text``, without its stop token.
            render: Makes ``text`` of another message in the place of ``marked``.

        Raises:
            TemplateRefusal: The template cuts, moves or repeats what must not train.
        """
        found = []
        for key, value in _texts(said):
            if quiet := list(self._quiet(value, reasoning=key != "content")):
                shown = render(_changed(marked, key, [(one.start, one.end) for one in quiet]))
                found_at = places(shown)
                inside = all(answer[0] <= start and end <= answer[1] for start, end in found_at)
                if SIGNS.sub("", shown) != text or len(found_at) != len(quiet) or not inside:
                    raise TemplateRefusal(
                        "the template cuts, moves or repeats what data.no_loss_patterns or"
                        " data.train_on_reasoning=false mute"
                    )
                found += [_widened(place, one, text, answer) for place, one in zip(found_at, quiet, strict=True)]
        if self._reasoning and not reasoning_blocks.texts(marked):
            empty = _EMPTY_BLOCK.match(text, *answer)
            found += [empty.span()] if empty else []
        return tuple(_merged(found))

    def _quiet(self, text: str, *, reasoning: bool) -> Iterator[_Quiet]:
        """The ranges of one text of a message that must not train, merged and in order."""
        thought = [(0, len(text))] if reasoning else [block[:2] for block in [reasoning_blocks.block(text)] if block]
        thought = thought if self._reasoning else []
        matches = [match.span() for pattern in self._patterns for match in pattern.finditer(text)]
        for start, end in _merged([*thought, *matches]):
            piece = text[start:end]
            core = piece.strip() or piece
            first = start + piece.index(core)
            last = first + len(core)
            within = any(a < last and first < b for a, b in thought)
            yield _Quiet(first, last, text[start:first], text[last:end], within)


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """The content of a message and the reasoning beside it, by key."""
    yield "content", message.content
    for key in (*reasoning_blocks.KEYS, PARTS):
        if isinstance(value := message.extra.get(key), str):
            yield key, value


def _changed(marked: Mapping[str, Any], key: str, ranges: list[Range]) -> dict[str, Any]:
    """A marked message with signs around ranges of one of its texts."""
    if not isinstance(marked["content"], list):
        return {**marked, key: muted(marked[key], ranges)}
    name = "thinking" if key == PARTS else "text"
    parts = [{**one, name: muted(one[name], ranges)} if one["type"] == name else one for one in marked["content"]]
    return {**marked, "content": parts}


def _widened(place: Range, quiet: _Quiet, text: str, answer: Range) -> Range:
    """The range with the white space around it that must not train, and with the tags around reasoning."""
    start, end = place
    for character in reversed(quiet.before):
        start -= start > answer[0] and text[start - 1] == character
    for character in quiet.behind:
        end += end < answer[1] and text[end] == character
    if quiet.reasoning:
        opening, closing = _OPENING.search(text, answer[0], start), _CLOSING.match(text, end, answer[1])
        start, end = opening.start() if opening else start, closing.end() if closing else end
    return start, end


def _merged(ranges: list[Range]) -> list[Range]:
    """The ranges in order, those that touch or overlap as one, empty ones left out."""
    found: list[Range] = []
    for start, end in sorted(one for one in ranges if one[0] < one[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
