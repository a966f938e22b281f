"""The coverage rules: the places at which a rendered conversation may show the content of its messages.

- A trained answer shows the content, the reasoning, and each call with its name and every argument of its message, each
  exactly once, and nothing of any other message.
- The prompt shows the tools, and each other message once and in order. Two exceptions that templates make are accepted:
  system messages may be at the very beginning or before the last question, and the reasoning of earlier answers may be
  left out.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sft_cli.chat.masks.sentinels import strip_marks
from sft_cli.chat.masks.text_positions import TOOLS, PiecePosition, Trace, TracedPiece, is_spelling_of
from sft_cli.chat.template.chat_template import RenderError

_CONSTANT = re.compile(r"\b(?:true|True|false|False|null|None|none)\b")
_CONSTANTS = {"true": "true|True", "false": "false|False", "null": "null|None|none"}


@dataclass(frozen=True, slots=True)
class TrainedAnswer:
    """A trained answer: the index of its message, and its character range in the text without the stop token."""

    message: int
    start: int
    end: int


class CoverageRules:
    """Check one text, with the positions of its pieces, against the coverage rules."""

    def __init__(
        self,
        text: str,
        answers: Sequence[TrainedAnswer],
        messages: Sequence[Mapping[str, Any]],
        trace: Trace,
        positions: list[PiecePosition],
    ) -> None:
        self._text, self._messages, self._pieces, self._positions = text, messages, trace.pieces, positions
        self._answers = {answer.message: answer for answer in answers}

    def check(self) -> None:
        """Raise ``RenderError`` for the first rule that is violated."""
        counts = Counter(position.piece for position in self._positions if not self._is_repeated_name(position))
        for number, piece in sorted(enumerate(self._pieces), key=lambda entry: entry[1].message):
            if piece.has_sentinels:
                self._check_count(piece, counts[number])
            elif piece.kind != "constant":
                self._check_shown(piece)
        for position in self._positions:
            piece = self._pieces[position.piece]
            if not is_spelling_of(position.text, piece.text):
                raise RenderError(
                    f"the template changes {self._describe(piece)} to {strip_marks(position.text)[:60]!r}"
                )
        self._check_answers()
        self._check_order()
        self._check_calls()

    def _is_repeated_name(self, position: PiecePosition) -> bool:
        """Return whether a position shows the name of a call again, above the result of that call."""
        piece, positions = self._pieces[position.piece], self._positions
        answer = self._answers.get(piece.message)
        if piece.kind != "name":
            return False
        if answer is not None:
            return position.start >= answer.end
        return position.start > min(other.start for other in positions if other.piece == position.piece)

    def _describe(self, piece: TracedPiece) -> str:
        """Return the name of a piece for messages."""
        text = repr(strip_marks(piece.text)[:60])
        if piece.message == TOOLS:
            return f"the tools ({text})"
        role = self._messages[piece.message]["role"]
        owner = f"message {piece.message + 1} ({role})"
        if piece.kind in ("content", "reasoning"):
            return f"the {piece.kind} of {owner}: {text}"
        part = {"name": "name", "key": "argument", "arguments": "arguments"}.get(piece.kind, "argument value")
        return f"the {part} {text} of call {piece.path[0] + 1} in {owner}"

    def _check_count(self, piece: TracedPiece, count: int) -> None:
        """Reject a piece that is missing or shown twice."""
        if piece.kind == "tool":  # names also occur in lists of required arguments
            wrong = count == 0
        elif piece.kind == "reasoning" and piece.message not in self._answers:
            wrong = count > 1
        else:
            wrong = count != 1
        if wrong:
            verb = "does not show" if count == 0 else f"shows {count} times"
            raise RenderError(f"the template {verb} {self._describe(piece)}", fix=self._fix(piece))

    def _check_shown(self, piece: TracedPiece) -> None:
        """Reject a piece without sentinels that does not occur where its message is shown."""
        answer = self._answers.get(piece.message)
        region = self._text[answer.start : answer.end] if answer else self._text
        escaped = (json.dumps(piece.text, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
        if piece.text not in region and not any(text in region for text in escaped):
            raise RenderError(f"the template does not show {self._describe(piece)}", fix=self._fix(piece))

    def _fix(self, piece: TracedPiece) -> str:
        """Return the fix for a piece that the template cannot show."""
        if piece.message == TOOLS:
            return "ignore the tools with 'data.mix.{source}.ignore=[tools]'"
        if self._messages[piece.message]["role"] == "system":
            return "replace system messages with nothing: data.override_system=true data.system=''"
        return ""

    def _check_answers(self) -> None:
        """Reject a piece outside of its own answer, or inside another one."""
        for position in self._positions:
            piece = self._pieces[position.piece]
            own = self._answers.get(piece.message)
            if (
                own is not None
                and not self._is_repeated_name(position)
                and not (own.start <= position.start and position.end <= own.end)
            ):
                raise RenderError(f"the template shows {self._describe(piece)} outside of its answer")
            for answer in self._answers.values():
                if answer is not own and position.start < answer.end and answer.start < position.end:
                    raise RenderError(
                        f"the template shows {self._describe(piece)} inside message {answer.message + 1} (assistant)"
                    )

    def _check_order(self) -> None:
        """Reject messages, or the parts of one, in a different order."""
        roles = [message["role"] for message in self._messages]
        positions = [position for position in self._positions if not self._is_repeated_name(position)]
        numbers = [position.piece for position in positions if self._pieces[position.piece].message != TOOLS]
        order = [self._pieces[number] for number in numbers]
        without_system = [number for number in numbers if roles[self._pieces[number].message] != "system"]
        for before, after in pairwise(map(self._order_key, without_system)):
            if after[:3] < before[:3]:
                raise RenderError(f"the template shows {self._describe(self._pieces[after[-1]])} out of its place")
        questions = [i for i, role in enumerate(roles) if role == "user"]
        for position_index, piece in enumerate(order):
            if roles[piece.message] != "system":
                continue
            messages_before = {other.message for other in order[:position_index]}
            next_piece = next((other for other in order[position_index:] if roles[other.message] != "system"), None)
            is_at_front = all(roles[message] == "system" for message in messages_before)
            is_in_order = all(message <= piece.message for message in messages_before)
            is_before_last_question = bool(questions) and next_piece is not None and next_piece.message == questions[-1]
            is_in_place = is_in_order and (next_piece is None or next_piece.message > piece.message)
            if not (is_at_front or is_in_place or is_before_last_question):
                raise RenderError(f"the template shows {self._describe(piece)} out of its place")

    def _order_key(self, number: int) -> tuple[int, ...]:
        """Sort key of a piece: message, then reasoning, content, calls; the entries of a call may be in any order."""
        piece = self._pieces[number]
        return (piece.message, 1 + piece.path[0] if piece.path else 0, 0 if piece.path else number, number)

    def _check_calls(self) -> None:
        """Reject calls whose arguments are mixed up, or that lack a true, false or null."""
        for message in {piece.message for piece in self._pieces if piece.path}:
            piece_numbers = [n for n, piece in enumerate(self._pieces) if piece.message == message and piece.path]
            positions = [
                position
                for position in self._positions
                if position.piece in set(piece_numbers) and not self._is_repeated_name(position)
            ]
            paths = [self._pieces[position.piece].path for position in positions]
            for depth in range(1, max(map(len, paths), default=0) + 1):
                heads = [path[:depth] for path in paths if len(path) >= depth]
                groups = [head for i, head in enumerate(heads) if i == 0 or heads[i - 1] != head]
                if len(set(groups)) != len(groups):
                    raise RenderError(f"the template mixes up the arguments of calls in message {message + 1}")
            self._check_constants(message, positions)
            self._check_constant_values(message, positions)

    def _check_constant_values(self, message: int, positions: list[PiecePosition]) -> None:
        """Reject a message that shows true, false or null anywhere except after its own argument key."""
        keys = {
            self._pieces[position.piece].path: position
            for position in positions
            if self._pieces[position.piece].kind == "key"
        }
        starts = sorted(position.start for position in self._positions)
        for piece in self._pieces:
            key = keys.get(piece.path) if piece.message == message and piece.kind == "constant" else None
            if key is None:
                continue
            answer = self._answers.get(message)
            end = answer.end if answer else len(self._text)
            stop = next((start for start in starts if start >= key.end), end)
            constants = [
                constant.group().lower() for constant in _CONSTANT.finditer(self._text, key.end, min(stop, end))
            ]
            if [constant.replace("none", "null") for constant in constants] != [piece.text]:
                raise RenderError(f"the template does not show {self._describe(piece)} once")

    def _check_constants(self, message: int, positions: list[PiecePosition]) -> None:
        """Reject a message whose calls show fewer true, false and null than they contain."""
        expected = Counter(p.text for p in self._pieces if p.message == message and p.kind == "constant")
        if not expected or not positions:
            return
        answer = self._answers.get(message)
        end = answer.end if answer else next((p.start for p in self._positions if p.start > positions[-1].end), None)
        ends = [position.start for position in positions[1:]] + [end if end is not None else len(self._text)]
        text_between = " ".join(self._text[position.end : stop] for position, stop in zip(positions, ends, strict=True))
        for constant, count in expected.items():
            if len(re.findall(rf"\b(?:{_CONSTANTS.get(constant, re.escape(constant))})\b", text_between)) < count:
                raise RenderError(
                    f"the template does not show an argument value {constant} in message {message + 1} (assistant)"
                )
