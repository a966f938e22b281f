"""The account of a rendered conversation: what each message says is shown, once, in its turn, or the row is refused.

The rules are in coverage_rules.py. Where each text stands is seen, not searched for (text_positions.py), at the price
of one more rendering. What a template writes around the texts is remembered by the shape of the messages; a text that
is made of the same words around its own pieces has the same account and is not rendered again.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sft_cli.chat.masks.coverage_rules import Answer, Verdict
from sft_cli.chat.masks.text_positions import LEVELS, TOOLS, Place, Trace
from sft_cli.chat.template.chat_template import TemplateRefusal

SHAPES, VARIANTS = 4096, 8
"""Shapes of messages remembered, and ways of writing each."""


@dataclass(frozen=True, slots=True)
class _Known:
    """How one stretch of text was made of pieces: ``words[0] + pieces[order[0]] + words[1] + …``.

    Attributes:
        form: The words, with ``%s`` for each piece.
        order: Which piece that is.
    """

    form: str
    order: tuple[int, ...]

    @classmethod
    def of(cls, words: Sequence[str], order: Sequence[int]) -> "_Known":
        """From the words and the order of the pieces."""
        return cls("%s".join(word.replace("%", "%%") for word in words), tuple(order))

    def text(self, pieces: Sequence[str]) -> str:
        """The stretch with these pieces."""
        return self.form % tuple([pieces[number] for number in self.order])


class Account:
    """Keeps the accounts of texts that one template rendered."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, list[_Known]] = OrderedDict()
        self._tools: dict[str, str] = {}

    def check(
        self,
        text: str,
        answers: Sequence[Answer],
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
        render: Callable[[Trace], str],
    ) -> None:
        """Refuse a text that does not account for every message up to its last answer.

        Args:
            text: The rendered text, up to and with the stop token of its last answer.
            answers: Its trained answers, in order.
            messages: The messages as the template read them.
            tools: The tool schemas as the template read them.
            render: Makes the text of the conversation with signs, which may go on behind ``text``.

        Raises:
            TemplateRefusal: What is left out, shown twice, changed or moved.
        """
        messages = messages[: answers[-1].message + 1]
        stretches = _stretches(answers, messages, tools)
        if all(self._is_known(text, stretch) for stretch in stretches):
            return
        traced = None
        for level in LEVELS:
            trace = Trace(messages, tools, level)
            try:
                found = trace.read(render(trace))
            except TemplateRefusal:  # it reads what is in a text, and the signs are in its way
                continue
            if found is not None and found[0].startswith(text):
                traced = trace, [place for place in found[1] if place.end <= len(text)]
                break
        if traced is None:
            raise TemplateRefusal(
                "the template writes other text when its messages are marked, so that what it shows cannot be proven"
            )
        Verdict(text, answers, messages, *traced).check()
        for stretch in stretches:
            self._learn(text, stretch, *traced)

    def _is_known(self, text: str, stretch: "_Stretch") -> bool:
        """Whether a stretch is written as one of its shape was whose account is known."""
        known = self._known.get(stretch.shape)
        if known is None:
            return False
        pieces = stretch.pieces
        if stretch.tools is not None:
            if stretch.tools not in self._tools:
                return False
            pieces = [*pieces, self._tools[stretch.tools]]
        written = text[stretch.start : stretch.end]
        return written in [one.text(pieces) for one in known]

    def _learn(self, text: str, stretch: "_Stretch", trace: Trace, places: list[Place]) -> None:
        """Remember how a stretch is written, if it shows its own messages and nothing else."""
        if not all(piece.signed or piece.kind == "constant" for piece in trace.pieces):
            return
        inside = [place for place in places if stretch.start <= place.start and place.end <= stretch.end]
        own = [n for n, piece in enumerate(trace.pieces) if piece.message in stretch.messages]
        numbers = {n: at for at, n in enumerate(n for n in own if trace.pieces[n].kind != "constant")}
        shown = [place for place in inside if trace.pieces[place.piece].message != TOOLS]
        schemas = [place for place in inside if trace.pieces[place.piece].message == TOOLS]
        if any(place.piece not in numbers or place.text != trace.pieces[place.piece].text for place in shown):
            return
        if {place.piece for place in shown} != set(numbers) or bool(schemas) != (stretch.tools is not None):
            return
        cuts = [(place.start, place.end, numbers[place.piece]) for place in shown]
        if schemas:
            assert stretch.tools is not None
            start, end = schemas[0].start, schemas[-1].end
            if any(start < b and a < end for a, b, _ in cuts):
                return
            self._tools.setdefault(stretch.tools, text[start:end])
            cuts = sorted([*cuts, (start, end, len(numbers))])
        edges = [stretch.start, *(edge for a, b, _ in cuts for edge in (a, b)), stretch.end]
        words = tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
        known = self._known.setdefault(stretch.shape, [])
        known.insert(0, _Known.of(words, [number for _, _, number in cuts]))
        del known[VARIANTS:]
        if len(self._known) > SHAPES:
            self._known.popitem(last=False)
        if len(self._tools) > SHAPES:
            self._tools.clear()


class _Stretch(NamedTuple):
    """A stretch of text: an answer, or what stands between two.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        messages: The messages that it shows.
        pieces: Their pieces.
        shape: What decides the words around the pieces.
        tools: The tool schemas as JSON, if it shows them.
    """

    start: int
    end: int
    messages: range
    pieces: list[str]
    shape: Hashable
    tools: str | None


def _stretches(
    answers: Sequence[Answer], messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
) -> list[_Stretch]:
    """The stretches of a text, in order."""
    found: list[_Stretch] = []
    start, first = 0, 0
    schemas = json.dumps(tools, ensure_ascii=False, default=str) if tools else None
    for answer in answers:
        for end, last in ((answer.start, answer.message), (answer.end, answer.message + 1)):
            pieces: list[str] = []
            shape: list[Hashable] = [start == 0, last > answer.message, bool(schemas)]
            for message in messages[first:last]:
                shape.append(_add_pieces(message, pieces))
            found.append(
                _Stretch(start, end, range(first, last), pieces, tuple(shape), schemas if start == 0 else None)
            )
            start, first = end, last
    return found


def _add_pieces(message: Mapping[str, Any], pieces: list[str]) -> Hashable:
    """Append the pieces of a message; return its shape."""
    content = message["content"]
    if len(message) == 2 and isinstance(content, str) and "</think>" not in content:
        if core := content.strip():
            pieces.append(core)
        return (message["role"], bool(core))
    own = Trace([message], None, LEVELS[0]).pieces
    pieces += [piece.text for piece in own if piece.kind != "constant"]
    kinds = tuple((piece.kind, piece.path, piece.text if piece.kind == "constant" else "") for piece in own)
    further = tuple(sorted(key for key in message if key not in ("role", "content")))
    return (message["role"], kinds, further)
