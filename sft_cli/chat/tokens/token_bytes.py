"""The bytes of every token, so that decoding is a join.

Two families of decoders write each token's own bytes and nothing else: byte-level ones (GPT-2, Llama 3, Qwen), whose
vocabulary spells bytes as letters, and SentencePiece's with byte fallback (Llama 2, Mistral, Gemma), where U+2581 is a
space and ``<0x0A>`` a byte. The bytes of a text are then those of its tokens in order.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders

UNKNOWN_BYTES = b"\xff\xff"
"""Bytes of an id that the decoder reads differently: they are not valid UTF-8, so they match no text."""
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_LETTERS = {**{byte: byte for byte in _PRINTABLE}, **{byte: 256 + i for i, byte in enumerate(_OTHERS)}}
"""Byte -> its code point in byte-level vocabularies (Radford et al. 2019): printable ones are themselves."""
_LETTER_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}
_FALLBACK = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class TokenBytes(dict[int, bytes]):
    """Id -> its bytes after other text, each compared with the decoder when first used."""

    def __init__(self, backend: tokenizers.Tokenizer, read: Callable[[str], bytes]) -> None:
        self._backend, self._read = backend, read
        # Decoders strip a leading space and join bytes to characters: each token is read behind a letter.
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
    codes = [_LETTER_BYTES.get(ord(letter)) for letter in token]
    return token.encode() if None in codes else bytes(code for code in codes if code is not None)


def _fallback(token: str) -> bytes:
    """Return the bytes of a SentencePiece token."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            pass
    return token.replace("\u2581", " ").encode()
