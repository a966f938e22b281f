"""The text of token ids, from the known bytes of each id or, if these are unknown, from the tokenizer's decoder."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders

from sft_cli.chat.tokens.tokenizer import ChatTokenizer

UNKNOWN_BYTES = b"\xff\xff"
"""Bytes of an id that the decoder decodes differently; they are not valid UTF-8, so they match no text."""
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_LETTERS = {**{byte: byte for byte in _PRINTABLE}, **{byte: 256 + i for i, byte in enumerate(_OTHERS)}}
"""The code point of each byte in byte-level vocabularies (Radford et al. 2019); printable bytes are unchanged."""
_LETTER_BYTES = {**dict.fromkeys(range(256), 256), **{letter: byte for byte, letter in BYTE_LETTERS.items()}}
"""The byte of each code point in byte-level vocabularies; 256, which is no byte, for other code points below it."""
_FALLBACK = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class TokenBytes(dict[int, bytes]):
    """The bytes of each id after other text, compared with the decoder on first use."""

    def __init__(self, backend: tokenizers.Tokenizer, read: Callable[[str], bytes]) -> None:
        self._backend, self._read = backend, read
        # Decoders strip a leading space and join bytes to characters, so each token is decoded after a letter.
        self._anchor = backend.encode("a", add_special_tokens=False).ids[-1:]
        self._before = self._decoded([])

    @classmethod
    def from_tokenizer(cls, backend: tokenizers.Tokenizer) -> "TokenBytes | None":
        """Build the map for a tokenizer; None if its decoder does not write tokens one by one."""
        if isinstance(backend.decoder, decoders.ByteLevel):
            return cls(backend, _letters)
        state: dict[str, Any] = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
        if state.get("decoders") in (_FALLBACK, [*_FALLBACK, _STRIP]):
            return cls(backend, _fallback)
        return None

    def join(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of ids that follow other text."""
        return b"".join(map(self.__getitem__, ids))

    def __missing__(self, id: int) -> bytes:
        token = self._backend.id_to_token(id)
        token_bytes = self._read(token) if token is not None else UNKNOWN_BYTES
        is_confirmed = self._decoded([id]) == self._before + token_bytes.decode(errors="replace")
        self[id] = token_bytes if is_confirmed else UNKNOWN_BYTES
        return self[id]

    def _decoded(self, ids: list[int]) -> str:
        return self._backend.decode(self._anchor + ids, skip_special_tokens=False)


def _letters(token: str) -> bytes:
    """Return the bytes that a byte-level vocabulary spells; a token with other letters is itself."""
    try:
        return token.translate(_LETTER_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _fallback(token: str) -> bytes:
    """Return the bytes of a SentencePiece token."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            pass
    return token.replace("\u2581", " ").encode()


class TokenTextReader:
    """Decode the ids of one tokenizer.

    Attributes:
        token_bytes: The bytes of every token; None if the decoder does not write tokens one by one.
        normalize: Normalizes a text as the tokenizer does.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders strip a leading space at the beginning, so ids that follow other text are decoded after a newline.
        self._anchor = tokenizer.encode_batch(["\n"])[0][-1:]
        self._anchor_text = tokenizer.decode_batch([self._anchor])[0]
        self.token_bytes = TokenBytes.from_tokenizer(tokenizer.backend)
        self.normalize = tokenizer.normalize

    def decodes_to(self, ids: list[int], expected: str, exactly: bool = False) -> bool:
        """Return whether the ids' known bytes equal those of the text or (not ``exactly``) of its normalized form."""
        if self.token_bytes is None:
            return False
        joined = self.token_bytes.join(ids)
        return joined == expected.encode() or (not exactly and joined == self.normalize(expected).encode())

    def decode(self, ranges: Sequence[tuple[list[int], bool]]) -> list[str]:
        """Return the text of each list of ids, each given with whether it follows other text."""
        texts = self._tokenizer.decode_batch(
            [self._anchor + ids if follows_text else ids for ids, follows_text in ranges]
        )
        return [
            text.removeprefix(self._anchor_text) if follows_text else text
            for text, (_, follows_text) in zip(texts, ranges, strict=True)
        ]

    def prefix_length(self, ids: list[int], follows_text: bool, count: int) -> int:
        """Return the length of the text of the first ``count`` ids; an incomplete last character does not count."""
        # The bytes of an incomplete character are decoded to U+FFFD.
        return len(self.decode([(ids[:count], follows_text)])[0].rstrip("\ufffd"))
