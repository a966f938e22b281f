"""The rules of an account: where a rendered conversation may show what its messages say.

- A trained answer shows the content, the reasoning, and each call with its name and every argument of its message, each
  exactly once, and nothing of any other message.
- The prompt shows each other message once and in order, and the tools. Two liberties that templates take are granted:
  system messages may stand at the very beginning or before the last question, and the reasoning of earlier answers may
  be left out.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sft_cli.chat.masks.sentinels import unmarked
from sft_cli.chat.masks.text_positions import TOOLS, Piece, Place, Trace, shows
from sft_cli.chat.template.chat_template import TemplateRefusal

_CONSTANT = re.compile(r"\b(?:true|True|false|False|null|None|none)\b")
_CONSTANTS = {"true": "true|True", "false": "false|False", "null": "null|None|none"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A trained answer: the index of its message, and its characters in the text without the stop token."""

    message: int
    start: int
    end: int


class Verdict:
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
