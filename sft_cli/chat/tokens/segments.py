"""Texts into the pieces a tokenizer works on one by one, and the ids of each piece.

Why ids of pieces are ids of the text: a tokenizer first looks for its added tokens in the raw text, leftmost and
longest first, and cuts the text there; normaliser, pre-tokeniser and model then see one piece at a time and nothing
beside it, save whether it begins the text (a SentencePiece space may depend on that). So a piece here is an added token
*with* the text behind it, up to the next one: encoded by itself it stands where it stood, behind that token. Tokens
that take whitespace or words beside them (``lstrip``, ``rstrip``, ``single_word``), and control tokens that are no
added tokens, break the argument: a text that holds one is not cut. Added tokens matched after normalisation are found
inside pieces, by the tokenizer itself.
"""

import re
from collections.abc import Sequence

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.chat.tokens.word_cache import Words
from sft_cli.utils.text import any_of

REMEMBERED = 512
"""Pieces remembered at a time: ``assistant`` headers and system prompts come again with every row."""
LONGEST_REMEMBERED = 4096
"""Characters of the longest piece worth remembering."""

Piece = tuple[str, str]
"""An added token (empty for what begins a text) and the text behind it."""


class Segments:
    """Cuts texts into pieces and encodes those."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._plain = _plain_tokens(tokenizer)
        self._cut = re.compile(f"({any_of([*_looked_for(tokenizer), *tokenizer.control])})")
        self._control_ids = frozenset(tokenizer.control.values())
        self._words = Words.of(tokenizer.backend)
        self._recent: dict[Piece, list[int] | None] = {("", ""): []}
        self._older: dict[Piece, list[int] | None] = {}

    def cut(self, text: str) -> list[str] | None:
        """The text cut into what precedes the first added token, that token, what is behind it, and so on.

        None for a text with a token that it must not be cut at.
        """
        parts = self._cut.split(text)
        return parts if all(map(self._plain.__contains__, parts[1::2])) else None

    def ids(self, pieces: Sequence[Piece]) -> list[list[int] | None]:
        """Ids of each piece, not to be changed; None where they hold a control token besides the first."""
        found: list[list[int] | None] = []
        unknown: list[int] = []
        for i, piece in enumerate(pieces):
            if piece in self._recent:
                found.append(self._recent[piece])
            elif piece in self._older:
                found.append(self._remember(piece, self._older[piece]))
            elif self._words is not None and (body := self._words.ids(piece[1])) is not None:
                ids = [self._plain[piece[0]], *body] if piece[0] else body
                found.append(self._remember(piece, self._checked(piece, ids)))
            else:
                found.append(None)
                unknown.append(i)
        texts = ["".join(pieces[i]) for i in unknown]
        for i, ids in zip(unknown, self._tokenizer.encode_batch(texts) if texts else [], strict=True):
            found[i] = self._remember(pieces[i], self._checked(pieces[i], ids))
        return found

    def _checked(self, piece: Piece, ids: list[int]) -> list[int] | None:
        """The ids if their control tokens are those the piece was cut at."""
        if not piece[0]:
            return ids if self._control_ids.isdisjoint(ids) else None
        return ids if ids[0] == self._plain[piece[0]] and self._control_ids.isdisjoint(ids[1:]) else None

    def _remember(self, piece: Piece, ids: list[int] | None) -> list[int] | None:
        """The ids; kept until ``REMEMBERED`` other pieces came since it did, at most twice that."""
        if len(piece[1]) <= LONGEST_REMEMBERED:
            if len(self._recent) >= REMEMBERED:
                self._older, self._recent = self._recent, {("", ""): []}
            self._recent[piece] = ids
        return ids


def _looked_for(tokenizer: ChatTokenizer) -> list[str]:
    """Added tokens that are looked for in raw text."""
    return [token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if not token.normalized]


def _plain_tokens(tokenizer: ChatTokenizer) -> dict[str, int]:
    """The added tokens a text may be cut at, with their ids."""
    added = tokenizer.backend.get_added_tokens_decoder()
    plain = {
        token.content: id
        for id, token in added.items()
        if not (token.normalized or token.lstrip or token.rstrip or token.single_word) and token.content
    }
    alone = tokenizer.encode_batch(list(plain))
    return {text: id for (text, id), ids in zip(plain.items(), alone, strict=True) if ids == [id]}
