"""Split texts into the pieces that a tokenizer encodes one by one, and encode each piece.

Why the ids of the pieces are those of the text: a tokenizer first searches the raw text for its added tokens, leftmost
and longest first, and splits the text there. Normalizer, pre-tokenizer and model then process one piece at a time,
independent of the others, except for whether it begins the text (a SentencePiece space may depend on that). So a piece
here is an added token *with* the text after it, up to the next one: encoded separately, the text still follows that
token. For tokens that absorb white space or words around them (``lstrip``, ``rstrip``, ``single_word``), and control
tokens that are not added tokens, this does not hold: a text that contains one is not split. Added tokens that are
matched after normalization are found inside pieces, by the tokenizer itself.
"""

import re
from collections.abc import Sequence

from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.chat.tokens.word_cache import WordIdCache
from sft_cli.utils.text import any_of

CACHE_SIZE = 512
"""Number of pieces in each of two caches: ``assistant`` headers and system prompts occur in every row."""
MAX_CACHED_LENGTH = 4096
"""Length of the longest piece that is cached, in characters."""

Piece = tuple[str, str]
"""An added token (empty at the beginning of a text) and the text after it."""


class SegmentEncoder:
    """Split texts into pieces and encode those."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._plain = _plain_tokens(tokenizer)
        self._added_token = re.compile(f"({any_of([*_raw_tokens(tokenizer), *tokenizer.control_tokens])})")
        self._control_ids = frozenset(tokenizer.control_tokens.values())
        self._word_cache = WordIdCache.from_tokenizer(tokenizer.backend)
        self._recent: dict[Piece, list[int] | None] = {("", ""): []}
        self._older: dict[Piece, list[int] | None] = {}

    def split(self, text: str) -> list[str] | None:
        """Split a text into what precedes the first added token, that token, the text after it, and so on.

        Returns:
            None for a text with a token at which it must not be split.
        """
        parts = self._added_token.split(text)
        return parts if all(map(self._plain.__contains__, parts[1::2])) else None

    def encode(self, pieces: Sequence[Piece]) -> list[list[int] | None]:
        """Return the ids of each piece, not to be modified; None if they contain a control token after the first id."""
        results: list[list[int] | None] = []
        uncached: list[int] = []
        for i, piece in enumerate(pieces):
            if piece in self._recent:
                results.append(self._recent[piece])
            elif piece in self._older:
                results.append(self._remember(piece, self._older[piece]))
            elif self._word_cache is not None and (body := self._word_cache.encode(piece[1])) is not None:
                ids = [self._plain[piece[0]], *body] if piece[0] else body
                results.append(self._remember(piece, self._check_control(piece, ids)))
            else:
                results.append(None)
                uncached.append(i)
        texts = ["".join(pieces[i]) for i in uncached]
        for i, ids in zip(uncached, self._tokenizer.encode_batch(texts) if texts else [], strict=True):
            results[i] = self._remember(pieces[i], self._check_control(pieces[i], ids))
        return results

    def _check_control(self, piece: Piece, ids: list[int]) -> list[int] | None:
        """Return the ids if the piece's own token is their only control token, else None."""
        if not piece[0]:
            return ids if self._control_ids.isdisjoint(ids) else None
        return ids if ids[0] == self._plain[piece[0]] and self._control_ids.isdisjoint(ids[1:]) else None

    def _remember(self, piece: Piece, ids: list[int] | None) -> list[int] | None:
        """Cache the ids until between ``CACHE_SIZE`` and twice as many other pieces have been encoded."""
        if len(piece[1]) <= MAX_CACHED_LENGTH:
            if len(self._recent) >= CACHE_SIZE:
                self._older, self._recent = self._recent, {("", ""): []}
            self._recent[piece] = ids
        return ids


def _raw_tokens(tokenizer: ChatTokenizer) -> list[str]:
    """Return the added tokens that are searched for in raw text."""
    return [token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if not token.normalized]


def _plain_tokens(tokenizer: ChatTokenizer) -> dict[str, int]:
    """Return the added tokens at which a text may be split, with their ids."""
    added = tokenizer.backend.get_added_tokens_decoder()
    plain = {
        token.content: id
        for id, token in added.items()
        if not (token.normalized or token.lstrip or token.rstrip or token.single_word) and token.content
    }
    encoded = tokenizer.encode_batch(list(plain))
    return {text: id for (text, id), ids in zip(plain.items(), encoded, strict=True) if ids == [id]}
