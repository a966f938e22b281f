"""Exclude parts of answers from the loss: reasoning, and text that ``data.no_loss_patterns`` match.

The positions of these parts in the rendered text are not searched for: the message is rendered a second time with
sentinels around them; without the sentinels the text must be unchanged.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sft_cli.chat.masks.sentinels import RANGE_SENTINELS, find_ranges, mark_ranges
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import RenderError
from sft_cli.chat.template.message_variants import IN_PARTS
from sft_cli.config.schema.data import DataConfig
from sft_cli.types import Message

_EMPTY_BLOCK = re.compile(r"\s*(?:<think>)?\s*</think>")
_OPENING, _CLOSING = re.compile(r"<think>\s*\Z"), re.compile(r"\s*</think>")
Range = tuple[int, int]


class _NoLossPart(NamedTuple):
    """A part of a message's text without loss, and the white space around it, which has no loss either.

    Templates strip white space at the ends of a text, so the sentinels surround the part without it.
    """

    start: int
    end: int
    before: str
    after: str
    is_reasoning: bool


class NoLossFinder:
    """Find the ranges of answers that carry no loss, for one data config."""

    def __init__(self, data: DataConfig) -> None:
        self._patterns = [re.compile(pattern) for pattern in data.no_loss_patterns]
        self._reasoning = not data.train_on_reasoning
        self.is_active = bool(self._patterns) or self._reasoning

    def find(
        self, message: Message, marked: Mapping[str, Any], text: str, answer: Range, render: Callable[[dict], str]
    ) -> tuple[Range, ...]:
        """Return the no-loss ranges of a turn, in order and disjoint.

        Args:
            message: The assistant message.
            marked: The message as the template reads it, with marks.
            text: The rendering up to and including the message.
            answer: The range of the answer in ``text``, without its stop token.
            render: Renders ``text`` with another message in place of ``marked``.

        Raises:
            RenderError: The template cuts, moves or repeats a part without loss.
        """
        ranges = []
        for key, value in _message_texts(message):
            if parts := list(self._no_loss_parts(value, reasoning=key != "content")):
                rendered = render(_with_sentinels(marked, key, [(part.start, part.end) for part in parts]))
                positions = find_ranges(rendered)
                all_inside = all(answer[0] <= start and end <= answer[1] for start, end in positions)
                if RANGE_SENTINELS.sub("", rendered) != text or len(positions) != len(parts) or not all_inside:
                    raise RenderError(
                        "the template cuts, moves or repeats what data.no_loss_patterns or"
                        " data.train_on_reasoning=false exclude from the loss"
                    )
                ranges += [
                    _widen(position, part, text, answer) for position, part in zip(positions, parts, strict=True)
                ]
        if self._reasoning and not reasoning_blocks.reasoning_texts(marked):
            empty_block = _EMPTY_BLOCK.match(text, *answer)
            ranges += [empty_block.span()] if empty_block else []
        return tuple(_merge_ranges(ranges))

    def _no_loss_parts(self, text: str, *, reasoning: bool) -> Iterator[_NoLossPart]:
        """Yield the parts of one text of a message without loss, merged and in order."""
        reasoning_ranges = (
            [(0, len(text))] if reasoning else [block[:2] for block in [reasoning_blocks.find_block(text)] if block]
        )
        reasoning_ranges = reasoning_ranges if self._reasoning else []
        matches = [match.span() for pattern in self._patterns for match in pattern.finditer(text)]
        for start, end in _merge_ranges([*reasoning_ranges, *matches]):
            piece = text[start:end]
            stripped = piece.strip() or piece
            first = start + piece.index(stripped)
            last = first + len(stripped)
            in_reasoning = any(a < last and first < b for a, b in reasoning_ranges)
            yield _NoLossPart(first, last, text[start:first], text[last:end], in_reasoning)


def _message_texts(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the content and the reasoning of a message, by key."""
    yield "content", message.content
    for key in (*reasoning_blocks.REASONING_KEYS, IN_PARTS):
        if isinstance(value := message.extra.get(key), str):
            yield key, value


def _with_sentinels(marked: Mapping[str, Any], key: str, ranges: list[Range]) -> dict[str, Any]:
    """Return a marked message with sentinels around ranges of one of its texts."""
    if not isinstance(marked["content"], list):
        return {**marked, key: mark_ranges(marked[key], ranges)}
    name = "thinking" if key == IN_PARTS else "text"
    parts = [
        {**part, name: mark_ranges(part[name], ranges)} if part["type"] == name else part for part in marked["content"]
    ]
    return {**marked, "content": parts}


def _widen(text_range: Range, part: _NoLossPart, text: str, answer: Range) -> Range:
    """Widen a range by the white space around it that has no loss, and by the tags around reasoning."""
    start, end = text_range
    for character in reversed(part.before):
        start -= start > answer[0] and text[start - 1] == character
    for character in part.after:
        end += end < answer[1] and text[end] == character
    if part.is_reasoning:
        opening, closing = _OPENING.search(text, answer[0], start), _CLOSING.match(text, end, answer[1])
        start, end = opening.start() if opening else start, closing.end() if closing else end
    return start, end


def _merge_ranges(ranges: list[Range]) -> list[Range]:
    """Sort ranges, merge those that touch or overlap, and drop empty ones."""
    merged: list[Range] = []
    for start, end in sorted((start, end) for start, end in ranges if start < end):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
