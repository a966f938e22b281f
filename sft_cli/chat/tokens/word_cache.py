"""Encode texts word by word from a cache.

Byte-level BPE tokenizers split text into words with one regular expression and merge only inside words: the ids of a
text are those of its words. On ASCII text the expression means the same in Python's ``re`` as in the tokenizer's
library, and the merges of a known word need not be computed again.

A text with other characters is split at the spaces around the words that contain them; only those words are passed to
the tokenizer, once each. A text may be split at a space between two visible characters if the expression consists of
parts of ``SPLITTABLE_PATTERN``: no match extends across such a space, none has a lookbehind, and no character composes
with a space.

All other texts (other tokenizers, expressions with parts that are not listed below) are passed to the tokenizer whole.
"""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from sft_cli.chat.tokens.token_text import BYTE_LETTERS

MAX_WORDS = 1 << 17
"""Number of words after which the cache is cleared: some 30 MB."""
MAX_WORD_LENGTH = 40
"""Length of the longest word that is cached, in characters."""
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The default expression of a byte-level pre-tokenizer (Radford et al. 2019)."""
CLASSES = {"L": "a-zA-Z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9", "Nd": "0-9"}
"""The ASCII members of Unicode classes."""
SPLITTABLE_PATTERN = (
    r"(?:\(\?i:)?'[a-z]+(?:\|'[a-z]+)*\)?"  # 's|'t
    r"|(?: \?|\[\^\\r\\n\\p\{L\}\\p\{N\}\]\?)?"  # a space or a sign that begins a word
    r"(?:\\p\{[LN]\}|\[\^\\s\\p\{L\}\\p\{N\}\])(?:\+|\{1,3\})?(?:\[\\r\\n/?\]\*)?"
    r"|\\s[*+](?:\[\\r\\n\]\+|\(\?!\\S\))?"  # white space alone
)
"""The parts that an expression may consist of if texts are split at spaces."""
PROBES = "satAT1 \t\r\n\x0b\x1c'-"
_PARTS = re.compile(
    r"\\p\{(\w+)\}|(\\[sSrnt/])|(\(\?[:i!]:?)|(\[\^?)|(\])|([a-zA-Z0-9_'\" ,/|)*+?-])|(\{\d*,?\d*\})(?!\+)"
)


class WordIdCache:
    """Encode texts word by word from a cache; with ``cuts_at_spaces``, non-ASCII texts may be split at spaces."""

    def __init__(self, split: Callable[[str], list[str]], backend: tokenizers.Tokenizer, cuts_at_spaces: bool) -> None:
        self._split, self._cuts_at_spaces = split, cuts_at_spaces
        tokenize = backend.model.tokenize
        self._word_ids = _IdCache(lambda word: [token.id for token in tokenize(word.translate(BYTE_LETTERS))])
        self._other_ids = _IdCache(lambda text: backend.encode(text, add_special_tokens=False).ids)

    @classmethod
    def from_tokenizer(cls, backend: tokenizers.Tokenizer) -> "WordIdCache | None":
        """Build the cache for a tokenizer; None if it does not encode word by word."""
        source = _expression(backend.pre_tokenizer)
        keeps_text = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
        normalized_tokens = any(token.normalized for token in backend.get_added_tokens_decoder().values())
        if source is None or not keeps_text or normalized_tokens or not isinstance(backend.model, models.BPE):
            return None
        pattern = ascii_pattern(source)
        if pattern is None or backend.model.dropout or not _patterns_agree(pattern, backend.pre_tokenizer):
            return None
        cuts_at_spaces = re.fullmatch(f"(?:(?:{SPLITTABLE_PATTERN})(?:\\||\\Z))+", source) is not None
        return cls(pattern.findall, backend, cuts_at_spaces)

    def encode(self, text: str) -> list[int] | None:
        """Return the ids of a text without added tokens; None if the tokenizer must encode all of it."""
        if text.isascii():
            return self._ascii(text)
        return self._mixed(text) if self._cuts_at_spaces else None

    def _mixed(self, text: str) -> list[int] | None:
        """Return the ids of a text with other characters; None if it cannot be split around them."""
        parts = text.split(" ")
        other = [not part.isascii() for part in parts]
        cuts = [0, *(i for i in range(1, len(parts)) if other[i - 1] or other[i]), len(parts)]
        if not all(_is_visible(parts[i - 1][-1:]) and _is_visible(parts[i][:1]) for i in cuts[1:-1]):
            return None
        ids: list[int] = []
        for start, end in itertools.pairwise(cuts):
            piece = (" " if start else "") + " ".join(parts[start:end])
            piece_ids = self._other_ids[piece] if other[start] else self._ascii(piece)
            if piece_ids is None:
                return None
            ids += piece_ids
        return ids

    def _ascii(self, text: str) -> list[int] | None:
        """Return the ids of an ASCII text; None if its words are not the whole text."""
        words = self._split(text)
        if "".join(words) != text:
            return None
        return list(itertools.chain.from_iterable(map(self._word_ids.__getitem__, words)))


class _IdCache(dict[str, tuple[int, ...]]):
    """The ids of each word, computed on first use."""

    def __init__(self, find: Callable[[str], list[int]]) -> None:
        self._encode = find

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._encode(word))
        if len(word) <= MAX_WORD_LENGTH:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _is_visible(character: str) -> bool:
    """Return whether this is a character that no library treats as white space."""
    return character != "" and character.isprintable()


def ascii_pattern(source: str) -> re.Pattern[str] | None:
    """Return the expression for ASCII text; None if its meaning might differ between the libraries."""
    inside, at, parts = False, 0, []
    while at < len(source):
        match = _PARTS.match(source, at)
        if match is None or (match[1] and match[1] not in CLASSES) or (inside and match[4]):
            return None
        inside = (inside or bool(match[4])) and not match[5]
        if match[1]:
            members = CLASSES[match[1]]
            parts.append(members if inside else f"[{members}]" if members else "(?!)")
        else:
            parts.append(match.group())
        at = match.end()
    try:
        return re.compile("".join(parts), re.ASCII)
    except re.error:
        return None


def _expression(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> str | None:
    """Return the expression of a pre-tokenizer that only splits by it and maps bytes to letters; None for others."""
    state: dict[str, Any] = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer is not None else {}
    steps = state.get("pretokenizers", [state])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return GPT2_PATTERN if last["use_regex"] else None
    first = steps[0]
    if len(steps) != 2 or last["use_regex"] or first["type"] != "Split":
        return None
    return first["pattern"].get("Regex") if first["behavior"] == "Isolated" and not first["invert"] else None


def _patterns_agree(pattern: re.Pattern[str], pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> bool:
    """Return whether both split all combinations of three characters of ``PROBES`` in the same way."""
    assert pre_tokenizer is not None
    text = "".join(map("".join, itertools.product(PROBES, repeat=3)))
    words = [word.translate(BYTE_LETTERS) for word in pattern.findall(text)]
    return words == [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
