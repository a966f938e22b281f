"""Token ids as the pieces of text a person can read, each with what it is trained for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft_cli.chat.tokenizer import ChatTokenizer, load_tokenizer

_BROKEN = "\ufffd"
_MOST_IDS = 4
"""Ids a character can be spread over: it has at most four bytes."""
_CONTEXT = 16
"""Ids read beyond a cut, so that it does not go through a character."""
Loss = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class Piece:
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
    """A row's pieces; of a long row those of its beginning and its end.

    Attributes:
        head: The pieces before the cut.
        tail: The pieces after it; none where nothing was cut.
        num_hidden: Tokens left out between them.
        hidden_trained: Those of them that carry loss.
    """

    head: list[Piece]
    tail: list[Piece]
    num_hidden: int
    hidden_trained: int


class TokenReader:
    """Reads the tokens of one prepared directory."""

    def __init__(self, tokenizer: ChatTokenizer, stop_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.control.values())
        named = {tokenizer.backend.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        self._bytes = {id: byte for id, byte in named.items() if id is not None}  # of a model that falls back to them
        self._stops = frozenset(id for name, id in tokenizer.control.items() if name in stop_tokens)

    @classmethod
    def of(cls, directory: Path, manifest: dict[str, Any]) -> "TokenReader":
        """The reader for a prepared directory and its manifest."""
        return cls(load_tokenizer(str(directory / "tokenizer")), manifest["stop_tokens"])

    def pieces(self, ids: Sequence[int], trained: Sequence[bool]) -> list[Piece]:
        """The pieces of a row. ``trained[t]`` says whether ``ids[t]`` carries loss."""
        made = []
        start = 0
        for end, text in self._cuts(ids):
            for length, part in self._parts(ids[start:end], text):
                special = length == 1 and ids[start] in self._special
                count = sum(map(bool, trained[start : start + length]))
                stop = special and bool(count) and ids[start] in self._stops
                made.append(Piece(part, length, count, special, stop))
                start += length
        return made

    def excerpt(self, ids: Sequence[int], trained: Sequence[bool], limit: int) -> Excerpt:
        """About ``limit`` tokens of a row, half from each end; the whole row if it is hardly longer."""
        if len(ids) <= limit + 2 * _CONTEXT:
            return Excerpt(self.pieces(ids, trained), [], 0, 0)
        half = limit // 2
        head, num_head = self.pieces(ids[: half + _CONTEXT], trained[: half + _CONTEXT]), half + _CONTEXT
        while num_head > half:
            num_head -= head.pop().num_ids
        before = len(ids) - half - _CONTEXT
        tail, seen = self.pieces(ids[before:], trained[before:]), 0
        while seen < _CONTEXT:
            seen += tail.pop(0).num_ids
        hidden = trained[num_head : before + seen]
        return Excerpt(head, tail, len(hidden), sum(map(bool, hidden)))

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
