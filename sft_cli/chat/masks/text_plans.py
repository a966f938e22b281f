"""Plans: texts of conversations assembled from literals and contents, without running the template for each row.

A plan belongs to the shape of a conversation: the role and weight of each message, and nothing but a content in each.
It is made from one conversation of that shape whose text and spans were found and checked in full (spans.py), and from
symbolic renderings of the same prompts and turns (template/symbolic_text.py), which prove what the template does with
*every* conversation of that shape: the same literals around the same contents. A plan is kept only if

- its text shows each message once and in order, and each trained span begins after the prompt that a server sends and
  ends in a literal after its own content and no other;
- each prompt begins its turn, and each turn begins the last text;
- no special token, tag or entity can arise where a literal and a content meet.

For a conversation to be assembled, every content must have visible characters and hold no special token, reserved
character, reasoning tag or other text that a check of spans.py looks for. Then each of those checks sees the same
literals in the same order, and has the same result as for the first conversation. Every other conversation is rendered
and checked in full; the ids and the mask of every text are proven by the encoder in both cases.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sft_cli.chat.masks.rendered_text import RenderedText, TrainedSpan
from sft_cli.chat.masks.sentinels import RESERVED, SentinelMarker
from sft_cli.chat.template.chat_template import HTML_ENTITIES, ChatTemplate
from sft_cli.chat.template.symbolic_renderer import SymbolicRenderer
from sft_cli.chat.template.symbolic_text import ContentInspected, Insertion
from sft_cli.types import Conversation, Message

MAX_SHAPES = 4096
"""Number of conversation shapes whose plans are cached."""
MAX_TURNS = 32
"""Most trained turns of a plan: each takes two renderings to prove."""
_SEPARATOR = "\0"
"""Between contents while they are searched together: no searched text contains it."""
_SPECIAL_TEXTS = ("think>", "\\ufdd", "at 0x")
"""Texts that the checks of a rendering look for."""
_ASSEMBLED_TEXTS = (*_SPECIAL_TEXTS, *HTML_ENTITIES)
"""Texts that must not arise where a literal and a content meet."""
Shape = tuple[tuple[str, float], ...]
"""Role and weight of each message."""


class _Position(NamedTuple):
    """A position in a text: after ``literal`` characters of literals and the first ``contents`` contents."""

    literal: int
    contents: int


@dataclass(frozen=True, slots=True)
class _Parts:
    """A symbolic rendering: ``literals[0] + contents[0] + literals[1] + …``."""

    literals: list[str]
    contents: list[Insertion]

    @property
    def end(self) -> _Position:
        """The position after the last character."""
        return _Position(sum(map(len, self.literals)), len(self.contents))

    def cut(self, end: _Position) -> "_Parts":
        """Return the parts before a position, which is inside or at the edge of the literal after ``end.contents``."""
        before = sum(map(len, self.literals[: end.contents]))
        last = self.literals[end.contents][: end.literal - before]
        return _Parts([*self.literals[: end.contents], last], self.contents[: end.contents])

    def begins(self, other: "_Parts") -> bool:
        """Return whether these parts are the beginning of others, whatever the contents are."""
        count = len(self.contents)
        return (
            self.contents == other.contents[:count]
            and self.literals[:-1] == other.literals[:count]
            and other.literals[count].startswith(self.literals[-1])
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to assemble the text of a conversation.

    Attributes:
        pattern: The literals, with ``%s`` for each content.
        contents: The contents in the text.
        spans: Start, end and weight of each span.
        like: A text of the same shape, for stop tokens and remarks.
        absent: Texts that no content may contain.
        renderer: Knows the size of contents that the template's budget allows.
    """

    pattern: str
    contents: tuple[Insertion, ...]
    spans: tuple[tuple[_Position, _Position, float], ...]
    like: RenderedText
    absent: tuple[str, ...]
    renderer: SymbolicRenderer

    def assemble(self, contents: Sequence[str]) -> RenderedText:
        """Return the text for the contents of all messages."""
        written = _written(self.contents, contents)
        lengths = [0, *itertools.accumulate(map(len, written))]
        spans = [
            TrainedSpan(start.literal + lengths[start.contents], end.literal + lengths[end.contents], weight)
            for start, end, weight in self.spans
        ]
        return RenderedText(
            self.pattern % tuple(written), tuple(spans), self.like.stop_tokens, remarks=self.like.remarks
        )


class TextPlanner:
    """Makes and uses the plans of one template and one tokenizer."""

    def __init__(self, template: ChatTemplate, marker: SentinelMarker) -> None:
        self._template, self._marker = template, marker
        self._is_supported = SymbolicRenderer.is_supported(template)
        self._plans: OrderedDict[Shape, _Plan | None] = OrderedDict()
        self._seen: OrderedDict[Shape, None] = OrderedDict()

    def text(self, conversation: Conversation) -> RenderedText | None:
        """Return the text of a conversation; None if there is no plan for it."""
        plan = self._plans.get(_shape(conversation.messages)) if not conversation.tools else None
        if plan is None or any(message.extra for message in conversation.messages):
            return None
        contents = [message.content for message in conversation.messages]
        return plan.assemble(contents) if self._is_inert(contents, plan) else None

    def learn(
        self, conversation: Conversation, texts: Sequence[RenderedText], find_trained: Callable[[], Sequence[int]]
    ) -> None:
        """Make a plan from the checked text of a conversation, if its shape occurs for the second time.

        Args:
            conversation: The conversation.
            texts: Its texts.
            find_trained: Returns the indices of its trained turns.
        """
        if not self._is_supported or conversation.tools or any(message.extra for message in conversation.messages):
            return
        shape = _shape(conversation.messages)
        if shape in self._plans:
            return
        if shape not in self._seen:
            self._seen[shape] = None
            if len(self._seen) > MAX_SHAPES:
                self._seen.popitem(last=False)
            return
        contents = [message.content for message in conversation.messages]
        if not self._is_inert(contents, None):
            return
        trained = find_trained()
        is_short = len(texts) == 1 and len(trained) <= MAX_TURNS
        plan = self._plan(shape, contents, texts[0], trained) if is_short else None
        is_right = plan is not None and self._is_inert(contents, plan) and plan.assemble(contents) == texts[0]
        self._plans[shape] = plan if is_right else None
        if len(self._plans) > MAX_SHAPES:
            self._plans.popitem(last=False)

    def _is_inert(self, contents: Sequence[str], plan: _Plan | None) -> bool:
        """Return whether no check of a rendering can have another result because of these contents."""
        joined = _SEPARATOR.join(contents)
        return (
            all(map(str.strip, contents))
            and not any(text in joined for text in (plan.absent if plan else _SPECIAL_TEXTS))
            and (joined.isascii() or RESERVED.search(joined) is None)
            and not self._marker.has_control_token(joined)
            and (plan is None or plan.renderer.within_budget(len(joined)))
        )

    def _plan(
        self, shape: Shape, contents: Sequence[str], checked: RenderedText, trained: Sequence[int]
    ) -> _Plan | None:
        """Return the plan for a shape by a checked text; None if the template reads contents or a condition fails."""
        if checked.no_loss or checked.prompt_ranges or len(checked.spans) != len(trained):
            return None
        roles = [role for role, _ in shape]
        try:
            renderer = SymbolicRenderer(self._template)
            prompts = [_Parts(*renderer.render(roles[:i], prompt=True)) for i in trained]
            turns = [_Parts(*renderer.render(roles[: i + 1], prompt=False)) for i in trained]
        except (ContentInspected, Exception):  # the template reads contents, or its code may raise anything
            return None
        last = turns[-1]
        if [content.message for content in last.contents] != list(range(trained[-1] + 1)):
            return None
        ends = self._span_ends(checked, last, contents, trained)
        if ends is None or not all(map(_is_proven, trained, prompts, turns, ends, itertools.repeat(last))):
            return None
        text = last.cut(ends[-1])
        if not all(self._is_safe_edge(*edge) for edge in set(itertools.pairwise(text.literals))):
            return None
        spans = [(p.end, end, span.weight) for p, end, span in zip(prompts, ends, checked.spans, strict=True)]
        pattern = "%s".join(literal.replace("%", "%%") for literal in text.literals)
        absent = (*_SPECIAL_TEXTS, *sorted(renderer.log.absent - set(_SPECIAL_TEXTS)))
        return _Plan(pattern, tuple(text.contents), tuple(spans), checked, absent, renderer)

    def _span_ends(
        self, checked: RenderedText, text: _Parts, contents: Sequence[str], trained: Sequence[int]
    ) -> list[_Position] | None:
        """Return the end of each span, if that is after its stop token in the literal after its content."""
        lengths = [0, *itertools.accumulate(map(len, _written(text.contents, contents)))]
        starts = [0, *itertools.accumulate(map(len, text.literals))]
        ends = []
        for content, span, stop in zip(trained, checked.spans, checked.stop_tokens, strict=True):
            end = span.end - lengths[content + 1]
            if not starts[content + 1] + len(stop) <= end <= starts[content + 2]:
                return None
            ends.append(_Position(end, content + 1))
        return ends

    def _is_safe_edge(self, before: str, after: str) -> bool:
        """Return whether no searched text can arise where a content is between two literals."""
        return not any(
            before.endswith(text[:at]) or after.startswith(text[at:]) or text[at:].startswith(after)
            for text in (*self._marker.control_tokens, *_ASSEMBLED_TEXTS)
            for at in range(1, len(text))
        )


def _is_proven(i: int, prompt: _Parts, turn: _Parts, end: _Position, last: _Parts) -> bool:
    """Return whether turn i follows its prompt, shows its own content alone, and begins the last text."""
    shows_own = (prompt.end.contents, end.contents) == (i, i + 1) and prompt.end <= end <= turn.end
    return shows_own and prompt.begins(turn) and turn.cut(end).begins(last)


def _written(insertions: Sequence[Insertion], contents: Sequence[str]) -> list[str]:
    """Return the contents of the first messages as they are written."""
    pairs = zip(insertions, contents, strict=False)
    return [insertion.text(content) if insertion.strips else content for insertion, content in pairs]


def _shape(messages: Sequence[Message]) -> Shape:
    """Return the shape of a conversation without further keys."""
    return tuple([(message.role, message.weight) for message in messages])
