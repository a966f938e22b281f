"""Convert token ids to readable pieces of text, each with its loss."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer

_BROKEN = "\ufffd"
_MAX_IDS_PER_CHARACTER = 4
"""A character has at most four bytes, and so at most four ids."""
_CONTEXT = 16
"""Ids read beyond a cut, so that it does not split a character."""
Loss = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The fewest neighboring tokens that decode to whole characters, nearly always one token.

    Attributes:
        text: Their decoded text; the texts of all pieces join to the text of all ids.
        num_ids: Number of tokens.
        num_trained: Number of tokens that carry loss.
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
    """Neighboring pieces of a row, and the number of tokens left out before them.

    Attributes:
        pieces: The pieces.
        num_hidden: Tokens left out between the previous stretch and these pieces.
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
        self._bytes = {
            id: byte for id, byte in named.items() if id is not None
        }  # the byte tokens, if the model has any
        self._stops = frozenset(id for name, id in tokenizer.control_tokens.items() if name in stop_tokens)

    @classmethod
    def from_directory(cls, directory: Path, manifest: dict[str, Any]) -> "PreparedTokenReader":
        """Return the reader for a prepared directory and its manifest."""
        return cls(load_tokenizer(str(directory / "tokenizer")), manifest["stop_tokens"])

    def pieces(self, ids: Sequence[int], trained: Sequence[bool]) -> list[TextPiece]:
        """Return the pieces of a row; ``trained[t]`` is whether ``ids[t]`` carries loss."""
        pieces = []
        start = 0
        for end, text in self._cuts(ids):
            for length, part in self._parts(ids[start:end], text):
                special = length == 1 and ids[start] in self._special
                count = sum(map(bool, trained[start : start + length]))
                stop = special and bool(count) and ids[start] in self._stops
                pieces.append(TextPiece(part, length, count, special, stop))
                start += length
        return pieces

    def text(self, ids: Sequence[int]) -> str:
        """Return the decoded text of a row."""
        return self._read(ids, 0, len(ids))

    def excerpt(self, ids: Sequence[int], trained: Sequence[bool], limit: int) -> list[Excerpt]:
        """Return about ``limit`` tokens of a row: its beginning, the start of its loss, and its end.

        A short row is returned whole. The stretches and the tokens left out between them are the whole row, which ends
        with the last stretch.
        """
        if len(ids) <= limit + 2 * _CONTEXT:
            return [Excerpt(self.pieces(ids, trained))]
        stretches, shown_until = list[Excerpt](), 0
        first_trained = next((index for index, has_loss in enumerate(trained) if has_loss), None)
        for start, stop in _excerpt_windows(len(ids), first_trained, limit):
            pieces, begin = self._within(ids, trained, max(start, shown_until), stop)
            hidden = trained[shown_until:begin]
            stretches.append(Excerpt(pieces, len(hidden), sum(map(bool, hidden))))
            shown_until = begin + sum(piece.num_ids for piece in pieces)
        return stretches

    def _within(
        self, ids: Sequence[int], trained: Sequence[bool], start: int, stop: int
    ) -> tuple[list[TextPiece], int]:
        """Return the whole pieces between two positions, and the position where they begin.

        Args:
            ids: Ids of the row.
            trained: Whether each id carries loss.
            start: First position.
            stop: End position, exclusive.
        """
        low, high = max(0, start - _CONTEXT), min(len(ids), stop + _CONTEXT)
        pieces, end = self.pieces(ids[low:high], trained[low:high]), high
        while pieces and end > stop:
            end -= pieces.pop().num_ids
        while pieces and low < start:
            low += pieces.pop(0).num_ids
        return pieces, low

    def _cuts(self, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield the positions where ids can be cut between characters, each with the text since the previous one.

        A position is a cut if the text up to it is a prefix of a longer text. Each text is decoded together with the
        part before it, since decoders treat the beginning of a text specially.
        """
        anchor, start, known = 0, 0, ""
        pending: list[tuple[int, str]] = []
        for end in self._ends(ids):
            text = self._read(ids, anchor, end)
            pending.append((end, text))
            broken = text.endswith(_BROKEN) and end < len(ids)
            if broken and len(pending) < 8 * _MAX_IDS_PER_CHARACTER:
                continue
            certain = -_MAX_IDS_PER_CHARACTER if broken else len(pending)
            cuts = [(position, prefix) for position, prefix in pending[:certain] if text.startswith(prefix)]
            if not cuts:
                continue
            for position, prefix in cuts:
                yield position, prefix[len(known) :]
                known = prefix
            anchor, start = [start, *(position for position, _ in cuts)][-2:]
            known = self._read(ids, anchor, start)
            pending = [(position, self._read(ids, anchor, position)) for position, _ in pending if position > start]

    def _ends(self, ids: Sequence[int]) -> Iterator[int]:
        """Yield the end of every id; of neighboring byte tokens only the last end, since they are decoded together."""
        for end in range(1, len(ids) + 1):
            if end == len(ids) or ids[end - 1] not in self._bytes or ids[end] not in self._bytes:
                yield end

    def _read(self, ids: Sequence[int], start: int, end: int) -> str:
        """Return the decoded text of some of the ids."""
        return self._tokenizer.decode_batch([ids[start:end]])[0]

    def _parts(self, ids: Sequence[int], text: str) -> list[tuple[int, str]]:
        """Return length and text of each character made of byte tokens; any other text is one part."""
        content = bytes(self._bytes[id] for id in ids if id in self._bytes)
        if len(ids) == 1 or len(content) < len(ids):
            return [(len(ids), text)]
        if text == _BROKEN * len(ids):
            return [(1, _BROKEN)] * len(ids)
        if text.encode("utf-8", "replace") == content:
            return [(len(character.encode()), character) for character in text]
        return [(len(ids), text)]


def _excerpt_windows(length: int, first: int | None, limit: int) -> list[tuple[int, int]]:
    """Return the windows of a long row to show, in order and disjoint: ``(start, stop)``.

    Args:
        length: Tokens of the row.
        first: The first token that carries loss; None if none does.
        limit: Tokens to show, fewer than the row has.
    """
    if first is None:
        windows = [(0, limit // 2), (length - limit // 2, length)]
    else:
        quarter = max(1, limit // 4)
        loss = min(max(0, first - max(_MAX_IDS_PER_CHARACTER, quarter // 2)), length - limit // 2)
        windows = [(0, quarter), (loss, loss + limit // 2), (length - quarter, length)]
    joined: list[tuple[int, int]] = []
    for start, stop in windows:
        if joined and start <= joined[-1][1] + _CONTEXT:
            start, before = joined.pop()
            stop = max(stop, before)
        joined.append((start, stop))
    return joined
