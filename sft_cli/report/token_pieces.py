"""Token ids as the pieces of text a person can read, each with what it is trained for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer

_BROKEN = "\ufffd"
_MOST_IDS = 4
"""Ids a character can be spread over: it has at most four bytes."""
_CONTEXT = 16
"""Ids read beyond a cut, so that it does not go through a character."""
Loss = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The fewest neighbouring tokens that decode to whole characters; nearly always one.

    Attributes:
        text: What they decode to; the texts of all pieces join to the text of all ids.
        num_ids: How many tokens.
        num_trained: Those that carry loss.
        special: Whether it is one special token.
        stop: Whether it is a trained stop token.
    """

    text: str
    num_ids: int
    num_trained: int
    special: bool = False
    stop: bool = False

    @property
    def loss(self) -> Loss:
        """Whether none, some or all of its tokens carry loss."""
        return "none" if not self.num_trained else "all" if self.num_trained == self.num_ids else "some"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Neighbouring pieces of a row, and what was left out before them.

    Attributes:
        pieces: The pieces.
        num_hidden: Tokens left out between these pieces and the stretch before them.
        hidden_trained: Those of them that carry loss.
    """

    pieces: list[TextPiece]
    num_hidden: int = 0
    hidden_trained: int = 0


class PreparedTokenReader:
    """Reads the tokens of one prepared directory."""

    def __init__(self, tokenizer: ChatTokenizer, stop_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.control_tokens.values())
        named = {tokenizer.backend.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        self._bytes = {id: byte for id, byte in named.items() if id is not None}  # of a model that falls back to them
        self._stops = frozenset(id for name, id in tokenizer.control_tokens.items() if name in stop_tokens)

    @classmethod
    def from_directory(cls, directory: Path, manifest: dict[str, Any]) -> "PreparedTokenReader":
        """The reader for a prepared directory and its manifest."""
        return cls(load_tokenizer(str(directory / "tokenizer")), manifest["stop_tokens"])

    def pieces(self, ids: Sequence[int], trained: Sequence[bool]) -> list[TextPiece]:
        """The pieces of a row. ``trained[t]`` says whether ``ids[t]`` carries loss."""
        made = []
        start = 0
        for end, text in self._cuts(ids):
            for length, part in self._parts(ids[start:end], text):
                special = length == 1 and ids[start] in self._special
                count = sum(map(bool, trained[start : start + length]))
                stop = special and bool(count) and ids[start] in self._stops
                made.append(TextPiece(part, length, count, special, stop))
                start += length
        return made

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens of a row decode to."""
        return self._read(ids, 0, len(ids))

    def excerpt(self, ids: Sequence[int], trained: Sequence[bool], limit: int) -> list[Excerpt]:
        """About ``limit`` tokens of a row: its beginning, where its loss begins, and its end; all of it if it is short.

        The stretches and what is left out between them are the row; the last one ends it.
        """
        if len(ids) <= limit + 2 * _CONTEXT:
            return [Excerpt(self.pieces(ids, trained))]
        stretches, done = list[Excerpt](), 0
        for start, stop in _excerpt_windows(len(ids), next((at for at, one in enumerate(trained) if one), None), limit):
            pieces, begin = self._within(ids, trained, max(start, done), stop)
            hidden = trained[done:begin]
            stretches.append(Excerpt(pieces, len(hidden), sum(map(bool, hidden))))
            done = begin + sum(piece.num_ids for piece in pieces)
        return stretches

    def _within(
        self, ids: Sequence[int], trained: Sequence[bool], start: int, stop: int
    ) -> tuple[list[TextPiece], int]:
        """The whole pieces between two places, and the place where they begin."""
        low, high = max(0, start - _CONTEXT), min(len(ids), stop + _CONTEXT)
        pieces, end = self.pieces(ids[low:high], trained[low:high]), high
        while pieces and end > stop:
            end -= pieces.pop().num_ids
        while pieces and low < start:
            low += pieces.pop(0).num_ids
        return pieces, low

    def _cuts(self, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Where the ids can be cut without harm to a character, and the text before each cut, from the cut before it.

        A text can be cut where what is read so far begins what is read later. Texts are read behind the part before,
        since decoders treat the beginning of a text in their own way.
        """
        anchor, start, known = 0, 0, ""
        waiting: list[tuple[int, str]] = []
        for end in self._ends(ids):
            text = self._read(ids, anchor, end)
            waiting.append((end, text))
            broken = text.endswith(_BROKEN) and end < len(ids)
            if broken and len(waiting) < 8 * _MOST_IDS:
                continue
            certain = -_MOST_IDS if broken else len(waiting)
            found = [(at, so_far) for at, so_far in waiting[:certain] if text.startswith(so_far)]
            if not found:
                continue
            for at, so_far in found:
                yield at, so_far[len(known) :]
                known = so_far
            anchor, start = [start, *(at for at, _ in found)][-2:]
            known = self._read(ids, anchor, start)
            waiting = [(at, self._read(ids, anchor, at)) for at, _ in waiting if at > start]

    def _ends(self, ids: Sequence[int]) -> Iterator[int]:
        """The end of every id, but of neighbouring single bytes only the end of the last: they are read as a whole."""
        for end in range(1, len(ids) + 1):
            if end == len(ids) or ids[end - 1] not in self._bytes or ids[end] not in self._bytes:
                yield end

    def _read(self, ids: Sequence[int], start: int, end: int) -> str:
        """The text of some of the ids."""
        return self._tokenizer.decode_batch([ids[start:end]])[0]

    def _parts(self, ids: Sequence[int], text: str) -> list[tuple[int, str]]:
        """Length and text of each character that single bytes make; anything else is one part."""
        content = bytes(self._bytes[id] for id in ids if id in self._bytes)
        if len(ids) == 1 or len(content) < len(ids):
            return [(len(ids), text)]
        if text == _BROKEN * len(ids):
            return [(1, _BROKEN)] * len(ids)
        if text.encode("utf-8", "replace") == content:
            return [(len(character.encode()), character) for character in text]
        return [(len(ids), text)]


def _excerpt_windows(length: int, first: int | None, limit: int) -> list[tuple[int, int]]:
    """What is shown of a long row, in its order and apart from each other: ``(from, to before)``.

    Args:
        length: Tokens of the row.
        first: The first that carries loss; None where none does.
        limit: Tokens to show, fewer than there are.
    """
    if first is None:
        wanted = [(0, limit // 2), (length - limit // 2, length)]
    else:
        quarter = max(1, limit // 4)
        loss = min(max(0, first - max(_MOST_IDS, quarter // 2)), length - limit // 2)
        wanted = [(0, quarter), (loss, loss + limit // 2), (length - quarter, length)]
    joined: list[tuple[int, int]] = []
    for start, stop in wanted:
        if joined and start <= joined[-1][1] + _CONTEXT:
            start, before = joined.pop()
            stop = max(stop, before)
        joined.append((start, stop))
    return joined
