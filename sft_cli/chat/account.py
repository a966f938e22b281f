"""The account of a rendered conversation: what each message says is shown, once, in its turn, or the row is refused.

- A trained answer shows the content, the reasoning, and each call with its name and every argument of its message, each
  exactly once, and nothing of any other message.
- The prompt shows each other message once and in order, and the tools. Two liberties that templates take are granted:
  system messages may stand at the very beginning or before the last question, and the reasoning of earlier answers may
  be left out.

Where each text stands is seen, not searched for (chat/trace.py), at the price of one more rendering. What a template
writes around the texts is remembered by the shape of the messages; a text that is made of the same words around its own
pieces has the same account and is not rendered again.
"""

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sft_cli.chat.marks import unmarked
from sft_cli.chat.template import TemplateRefusal
from sft_cli.chat.trace import LEVELS, TOOLS, Piece, Place, Trace, shows

SHAPES, VARIANTS = 4096, 8
"""Shapes of messages remembered, and ways of writing each."""
_CONSTANT = re.compile(r"\b(?:true|True|false|False|null|None|none)\b")
_CONSTANTS = {"true": "true|True", "false": "false|False", "null": "null|None|none"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A trained answer: the index of its message, and its characters in the text without the stop token."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Known:
    """How one stretch of text was made of pieces: ``words[0] + pieces[order[0]] + words[1] + …``."""

    words: tuple[str, ...]
    order: tuple[int, ...]

    def text(self, pieces: Sequence[str]) -> str:
        """The stretch with these pieces."""
        parts = [self.words[0]]
        for number, word in zip(self.order, self.words[1:], strict=True):
            parts += (pieces[number], word)
        return "".join(parts)


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
        _Verdict(text, answers, messages, *traced).check()
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
        return any(one.text(pieces) == written for one in known)

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
        known.insert(0, _Known(words, tuple(number for _, _, number in cuts)))
        del known[VARIANTS:]
        if len(self._known) > SHAPES:
            self._known.popitem(last=False)
        if len(self._tools) > SHAPES:
            self._tools.clear()


@dataclass(frozen=True, slots=True)
class _Stretch:
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
            shapes, pieces = [], []
            for message in messages[first:last]:
                shape, own = _pieces(message)
                shapes.append(shape)
                pieces += own
            shape = (start == 0, last > answer.message, bool(schemas), *shapes)
            found.append(_Stretch(start, end, range(first, last), pieces, shape, schemas if start == 0 else None))
            start, first = end, last
    return found


def _pieces(message: Mapping[str, Any]) -> tuple[Hashable, list[str]]:
    """The shape of a message and its pieces."""
    content = message["content"]
    if len(message) == 2 and isinstance(content, str) and "</think>" not in content:
        core = content.strip()
        return (message["role"], bool(core)), [core] if core else []
    pieces = Trace([message], None, LEVELS[0]).pieces
    kinds = tuple((piece.kind, piece.path, piece.text if piece.kind == "constant" else "") for piece in pieces)
    further = tuple(sorted(key for key in message if key not in ("role", "content")))
    return (message["role"], kinds, further), [piece.text for piece in pieces if piece.kind != "constant"]


class _Verdict:
    """Holds one traced text against the rules."""

    def __init__(
        self,
        text: str,
        answers: Sequence[Answer],
        messages: Sequence[Mapping[str, Any]],
        trace: Trace,
        places: list[Place],
    ) -> None:
        self._text, self._messages, self._pieces, self._places = text, messages, trace.pieces, places
        self._answers = {answer.message: answer for answer in answers}

    def check(self) -> None:
        """Raise ``TemplateRefusal`` for the first rule that does not hold."""
        seen = Counter(place.piece for place in self._places if not self._is_label(place))
        for number, piece in sorted(enumerate(self._pieces), key=lambda one: one[1].message):
            if piece.signed:
                self._check_count(piece, seen[number])
            elif piece.kind != "constant":
                self._check_found(piece)
        for place in self._places:
            piece = self._pieces[place.piece]
            if not shows(place.text, piece.text):
                raise TemplateRefusal(f"the template changes {self._name(piece)} to {unmarked(place.text)[:60]!r}")
        self._check_answers()
        self._check_order()
        self._check_calls()

    def _is_label(self, place: Place) -> bool:
        """Whether a place shows the name of a call once more above the result of that call."""
        piece, shown = self._pieces[place.piece], self._places
        answer = self._answers.get(piece.message)
        if piece.kind != "name":
            return False
        if answer is not None:
            return place.start >= answer.end
        return place.start > min(one.start for one in shown if one.piece == place.piece)

    def _name(self, piece: Piece) -> str:
        """What messages call a piece."""
        text = repr(unmarked(piece.text)[:60])
        if piece.message == TOOLS:
            return f"the tools ({text})"
        role = self._messages[piece.message]["role"]
        of = f"message {piece.message + 1} ({role})"
        if piece.kind in ("content", "reasoning"):
            return f"the {piece.kind} of {of}: {text}"
        part = {"name": "name", "key": "argument", "arguments": "arguments"}.get(piece.kind, "argument value")
        return f"the {part} {text} of call {piece.path[0] + 1} in {of}"

    def _check_count(self, piece: Piece, count: int) -> None:
        """Refuse a piece that is not shown, or twice."""
        if piece.kind == "tool":  # names stand in lists of what is required, too
            wrong = count == 0
        elif piece.kind == "reasoning" and piece.message not in self._answers:
            wrong = count > 1
        else:
            wrong = count != 1
        if wrong:
            how = "does not show" if count == 0 else f"shows {count} times"
            raise TemplateRefusal(f"the template {how} {self._name(piece)}", fix=self._fix(piece))

    def _check_found(self, piece: Piece) -> None:
        """Refuse a piece without signs that is not found where its message is shown."""
        answer = self._answers.get(piece.message)
        region = self._text[answer.start : answer.end] if answer else self._text
        escaped = (json.dumps(piece.text, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
        if piece.text not in region and not any(text in region for text in escaped):
            raise TemplateRefusal(f"the template does not show {self._name(piece)}", fix=self._fix(piece))

    def _fix(self, piece: Piece) -> str:
        """What to do where a template cannot show a piece."""
        if piece.message == TOOLS:
            return "leave the tools out on purpose with 'data.mix.{source}.ignore=[tools]'"
        if self._messages[piece.message]["role"] == "system":
            return "leave system messages out with data.override_system=true data.system=''"
        return ""

    def _check_answers(self) -> None:
        """Refuse a piece outside of its own answer, or inside another's."""
        for place in self._places:
            piece = self._pieces[place.piece]
            own = self._answers.get(piece.message)
            if (
                own is not None
                and not self._is_label(place)
                and not (own.start <= place.start and place.end <= own.end)
            ):
                raise TemplateRefusal(f"the template shows {self._name(piece)} outside of its answer")
            for answer in self._answers.values():
                if answer is not own and place.start < answer.end and answer.start < place.end:
                    raise TemplateRefusal(
                        f"the template shows {self._name(piece)} inside message {answer.message + 1} (assistant)"
                    )

    def _check_order(self) -> None:
        """Refuse messages, or the parts of one, in another order."""
        roles = [message["role"] for message in self._messages]
        places = [place for place in self._places if not self._is_label(place)]
        numbers = [place.piece for place in places if self._pieces[place.piece].message != TOOLS]
        order = [self._pieces[number] for number in numbers]
        others = [number for number in numbers if roles[self._pieces[number].message] != "system"]
        for before, after in pairwise(map(self._rank, others)):
            if after[:3] < before[:3]:
                raise TemplateRefusal(f"the template shows {self._name(self._pieces[after[-1]])} out of its place")
        questions = [i for i, role in enumerate(roles) if role == "user"]
        for at, piece in enumerate(order):
            if roles[piece.message] != "system":
                continue
            ahead = {one.message for one in order[:at]}
            follower = next((one for one in order[at:] if roles[one.message] != "system"), None)
            at_front = all(roles[message] == "system" for message in ahead)
            in_turn = all(message <= piece.message for message in ahead)
            before_last = bool(questions) and follower is not None and follower.message == questions[-1]
            natural = in_turn and (follower is None or follower.message > piece.message)
            if not (at_front or natural or before_last):
                raise TemplateRefusal(f"the template shows {self._name(piece)} out of its place")

    def _rank(self, number: int) -> tuple[int, ...]:
        """Where a piece belongs: by message, in that reasoning, content, calls; the entries of a call in any order."""
        piece = self._pieces[number]
        return (piece.message, 1 + piece.path[0] if piece.path else 0, 0 if piece.path else number, number)

    def _check_calls(self) -> None:
        """Refuse calls whose arguments are mixed up, or that lack a true, false or null."""
        for message in {piece.message for piece in self._pieces if piece.path}:
            own = [n for n, piece in enumerate(self._pieces) if piece.message == message and piece.path]
            places = [place for place in self._places if place.piece in set(own) and not self._is_label(place)]
            paths = [self._pieces[place.piece].path for place in places]
            for depth in range(1, max(map(len, paths), default=0) + 1):
                heads = [path[:depth] for path in paths if len(path) >= depth]
                runs = [head for i, head in enumerate(heads) if i == 0 or heads[i - 1] != head]
                if len(set(runs)) != len(runs):
                    raise TemplateRefusal(f"the template mixes up the arguments of calls in message {message + 1}")
            self._check_constants(message, places)
            self._check_constant_values(message, places)

    def _check_constant_values(self, message: int, places: list[Place]) -> None:
        """Refuse a message with true, false or null anywhere but after its own argument key."""
        keys = {self._pieces[place.piece].path: place for place in places if self._pieces[place.piece].kind == "key"}
        starts = sorted(place.start for place in self._places)
        for piece in self._pieces:
            key = keys.get(piece.path) if piece.message == message and piece.kind == "constant" else None
            if key is None:
                continue
            answer = self._answers.get(message)
            end = answer.end if answer else len(self._text)
            stop = next((start for start in starts if start >= key.end), end)
            shown = [one.group().lower() for one in _CONSTANT.finditer(self._text, key.end, min(stop, end))]
            if [one.replace("none", "null") for one in shown] != [piece.text]:
                raise TemplateRefusal(f"the template does not show {self._name(piece)} once")

    def _check_constants(self, message: int, places: list[Place]) -> None:
        """Refuse a message whose calls show fewer true, false and null than they hold."""
        wanted = Counter(p.text for p in self._pieces if p.message == message and p.kind == "constant")
        if not wanted or not places:
            return
        answer = self._answers.get(message)
        end = answer.end if answer else next((p.start for p in self._places if p.start > places[-1].end), None)
        ends = [place.start for place in places[1:]] + [end if end is not None else len(self._text)]
        words = " ".join(self._text[place.end : stop] for place, stop in zip(places, ends, strict=True))
        for constant, count in wanted.items():
            if len(re.findall(rf"\b(?:{_CONSTANTS.get(constant, re.escape(constant))})\b", words)) < count:
                raise TemplateRefusal(
                    f"the template does not show an argument value {constant} in message {message + 1} (assistant)"
                )
