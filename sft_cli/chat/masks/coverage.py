"""Check that a rendered conversation shows the content of each message once and in its turn; reject the row otherwise.

The rules are in coverage_rules.py. The positions of the texts are not searched for; they are read from a second
rendering with sentinels (text_positions.py). The layout, the template's own text around the messages, is cached by
the structure of the messages. A text with a known layout is accepted without a second rendering.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sft_cli.chat.masks.coverage_rules import CoverageRules, TrainedAnswer
from sft_cli.chat.masks.text_positions import LEVELS, TOOLS, PiecePosition, Trace
from sft_cli.chat.template.chat_template import RenderError

MAX_SHAPES, MAX_LAYOUTS = 4096, 8
"""Number of message structures in the cache, and of layouts for each."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The composition of a section of text from pieces: ``words[0] + pieces[order[0]] + words[1] + …``.

    Attributes:
        pattern: The words, with ``%s`` for each piece.
        order: The index of the piece at each ``%s``.
    """

    pattern: str
    order: tuple[int, ...]

    @classmethod
    def from_words(cls, words: Sequence[str], order: Sequence[int]) -> "_Layout":
        """Build a layout from the words and the order of the pieces."""
        return cls("%s".join(word.replace("%", "%%") for word in words), tuple(order))

    def fill(self, pieces: Sequence[str]) -> str:
        """Return the section with these pieces."""
        return self.pattern % tuple([pieces[number] for number in self.order])


class CoverageChecker:
    """Check texts that one template rendered."""

    def __init__(self) -> None:
        self._layouts: OrderedDict[Hashable, list[_Layout]] = OrderedDict()
        self._tools: dict[str, str] = {}

    def check(
        self,
        text: str,
        answers: Sequence[TrainedAnswer],
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
        render: Callable[[Trace], str],
    ) -> None:
        """Reject a text that does not show every message up to its last answer.

        Args:
            text: The rendered text, up to and including the stop token of its last answer.
            answers: Its trained answers, in order.
            messages: The messages as the template reads them.
            tools: The tool schemas as the template reads them.
            render: Renders the conversation with sentinels; the result may continue after ``text``.

        Raises:
            RenderError: A piece is missing, shown twice, changed or moved.
        """
        messages = messages[: answers[-1].message + 1]
        sections = _sections(answers, messages, tools)
        if all(self._is_known(text, section) for section in sections):
            return
        traced_positions = None
        for level in LEVELS:
            trace = Trace(messages, tools, level)
            try:
                traced_text = trace.read(render(trace))
            except RenderError:  # the template inspects a text, and the sentinels change the result
                continue
            if traced_text is not None and traced_text[0].startswith(text):
                traced_positions = trace, [position for position in traced_text[1] if position.end <= len(text)]
                break
        if traced_positions is None:
            raise RenderError(
                "the template writes different text when its messages contain sentinels: its output cannot be proven"
            )
        CoverageRules(text, answers, messages, *traced_positions).check()
        for section in sections:
            self._remember(text, section, *traced_positions)

    def _is_known(self, text: str, section: "_Section") -> bool:
        """Return whether a section has a layout that was checked before."""
        layouts = self._layouts.get(section.shape)
        if layouts is None:
            return False
        pieces = section.pieces
        if section.tools is not None:
            if section.tools not in self._tools:
                return False
            pieces = [*pieces, self._tools[section.tools]]
        text_of_section = text[section.start : section.end]
        return text_of_section in [layout.fill(pieces) for layout in layouts]

    def _remember(self, text: str, section: "_Section", trace: Trace, positions: list[PiecePosition]) -> None:
        """Cache the layout of a section if it shows its own messages and nothing else."""
        if not all(piece.has_sentinels or piece.kind == "constant" for piece in trace.pieces):
            return
        inside_positions = [
            position for position in positions if section.start <= position.start and position.end <= section.end
        ]
        own_pieces = [n for n, piece in enumerate(trace.pieces) if piece.message in section.messages]
        numbers = {n: at for at, n in enumerate(n for n in own_pieces if trace.pieces[n].kind != "constant")}
        own_positions = [position for position in inside_positions if trace.pieces[position.piece].message != TOOLS]
        tool_positions = [position for position in inside_positions if trace.pieces[position.piece].message == TOOLS]
        if any(
            position.piece not in numbers or position.text != trace.pieces[position.piece].text
            for position in own_positions
        ):
            return
        if {position.piece for position in own_positions} != set(numbers) or bool(tool_positions) != (
            section.tools is not None
        ):
            return
        cuts = [(position.start, position.end, numbers[position.piece]) for position in own_positions]
        if tool_positions:
            assert section.tools is not None
            start, end = tool_positions[0].start, tool_positions[-1].end
            if any(start < b and a < end for a, b, _ in cuts):
                return
            self._tools.setdefault(section.tools, text[start:end])
            cuts = sorted([*cuts, (start, end, len(numbers))])
        edges = [section.start, *(edge for a, b, _ in cuts for edge in (a, b)), section.end]
        words = tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
        layouts = self._layouts.setdefault(section.shape, [])
        layouts.insert(0, _Layout.from_words(words, [number for _, _, number in cuts]))
        del layouts[MAX_LAYOUTS:]
        if len(self._layouts) > MAX_SHAPES:
            self._layouts.popitem(last=False)
        if len(self._tools) > MAX_SHAPES:
            self._tools.clear()


class _Section(NamedTuple):
    """A section of text: an answer, or the text between two answers.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        messages: Indices of the messages that it shows.
        pieces: The texts of those messages.
        shape: A key that determines the words around the pieces.
        tools: The tool schemas as JSON, if it shows them.
    """

    start: int
    end: int
    messages: range
    pieces: list[str]
    shape: Hashable
    tools: str | None


def _sections(
    answers: Sequence[TrainedAnswer], messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
) -> list[_Section]:
    """Return the sections of a text, in order."""
    sections: list[_Section] = []
    start, first_message = 0, 0
    schemas = json.dumps(tools, ensure_ascii=False, default=str) if tools else None
    for answer in answers:
        for is_answer, end, end_message in (
            (False, answer.start, answer.message),
            (True, answer.end, answer.message + 1),
        ):
            pieces: list[str] = []
            shapes = [_add_pieces(message, pieces) for message in messages[first_message:end_message]]
            shape = (start == 0, is_answer, bool(schemas), *shapes)
            shown = range(first_message, end_message)
            sections.append(_Section(start, end, shown, pieces, shape, schemas if start == 0 else None))
            start, first_message = end, end_message
    return sections


def _add_pieces(message: Mapping[str, Any], pieces: list[str]) -> Hashable:
    """Append the pieces of a message to ``pieces``.

    Returns:
        The shape of the message.
    """
    content = message["content"]
    if len(message) == 2 and isinstance(content, str) and "</think>" not in content:
        if core := content.strip():
            pieces.append(core)
        return (message["role"], bool(core))
    traced_pieces = Trace([message], None, LEVELS[0]).pieces
    pieces += [piece.text for piece in traced_pieces if piece.kind != "constant"]
    kinds = tuple((piece.kind, piece.path, piece.text if piece.kind == "constant" else "") for piece in traced_pieces)
    other_keys = tuple(sorted(key for key in message if key not in ("role", "content")))
    return (message["role"], kinds, other_keys)
