"""Ids of text word by word, from memory.

Byte-level BPE tokenizers cut text into words with one regular expression and merge inside words only: the ids of a text
are those of its words. In ASCII the expression says the same in Python's words as in the tokenizer's own library, and a
word met before need not be merged again.

A text with other letters is cut at the spaces beside what holds them; only that goes to the tokenizer, once. A space
between two visible characters is a place to cut at if the expression is made of ``ALTERNATIVE``: no match goes on into
such a space, none looks back, and nothing composes with a space.

Everything else - other tokenizers, expressions with parts not in the lists below - goes to the tokenizer as a whole.
"""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from sft_cli.chat.tokens.token_bytes import BYTE_LETTERS

REMEMBERED = 1 << 17
"""Words remembered before starting anew: some 30 MB."""
LONGEST_REMEMBERED = 40
"""Characters of the longest word worth remembering."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The expression of a byte-level pre-tokeniser that names none (Radford et al. 2019)."""
CLASSES = {"L": "a-zA-Z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9", "Nd": "0-9"}
"""The ASCII members of Unicode's classes."""
ALTERNATIVE = (
    r"(?:\(\?i:)?'[a-z]+(?:\|'[a-z]+)*\)?"  # 's|'t
    r"|(?: \?|\[\^\\r\\n\\p\{L\}\\p\{N\}\]\?)?"  # a space or a sign that begins a word
    r"(?:\\p\{[LN]\}|\[\^\\s\\p\{L\}\\p\{N\}\])(?:\+|\{1,3\})?(?:\[\\r\\n/?\]\*)?"
    r"|\\s[*+](?:\[\\r\\n\]\+|\(\?!\\S\))?"  # white space alone
)
"""What an expression may consist of that is cut at spaces."""
PROBES = "satAT1 \t\r\n\x0b\x1c'-"
_PARTS = re.compile(
    r"\\p\{(\w+)\}|(\\[sSrnt/])|(\(\?[:i!]:?)|(\[\^?)|(\])|([a-zA-Z0-9_'\" ,/|)*+?-])|(\{\d*,?\d*\})(?!\+)"
)


class Words:
    """The ids of texts with one tokenizer; ``at_spaces`` says that texts with other letters may be cut there."""

    def __init__(self, words: Callable[[str], list[str]], backend: tokenizers.Tokenizer, at_spaces: bool) -> None:
        self._words, self._at_spaces = words, at_spaces
        self._known = _Known(lambda word: [token.id for token in backend.model.tokenize(word.translate(BYTE_LETTERS))])
        self._others = _Known(lambda text: backend.encode(text, add_special_tokens=False).ids)

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> "Words | None":
        """For this tokenizer; None if it does not work word by word."""
        source = _expression(backend.pre_tokenizer)
        as_it_is = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
        inside = any(token.normalized for token in backend.get_added_tokens_decoder().values())
        if source is None or not as_it_is or inside or not isinstance(backend.model, models.BPE):
            return None
        pattern = ascii_pattern(source)
        if pattern is None or backend.model.dropout or not _agree(pattern, backend.pre_tokenizer):
            return None
        at_spaces = re.fullmatch(f"(?:(?:{ALTERNATIVE})(?:\\||\\Z))+", source) is not None
        return cls(pattern.findall, backend, at_spaces)

    def ids(self, text: str) -> list[int] | None:
        """Ids of a text that holds no added token; None if the tokenizer has to be asked for all of it."""
        if text.isascii():
            return self._ascii(text)
        return self._mixed(text) if self._at_spaces else None

    def _mixed(self, text: str) -> list[int] | None:
        """Ids of a text with other letters; None if it cannot be cut beside them."""
        parts = text.split(" ")
        other = [not part.isascii() for part in parts]
        cuts = [0, *(i for i in range(1, len(parts)) if other[i - 1] or other[i]), len(parts)]
        if not all(_visible(parts[i - 1][-1:]) and _visible(parts[i][:1]) for i in cuts[1:-1]):
            return None
        ids: list[int] = []
        for start, end in itertools.pairwise(cuts):
            piece = (" " if start else "") + " ".join(parts[start:end])
            found = self._others[piece] if other[start] else self._ascii(piece)
            if found is None:
                return None
            ids += found
        return ids

    def _ascii(self, text: str) -> list[int] | None:
        """Ids of an ASCII text; None if the words do not make it up."""
        words = self._words(text)
        if "".join(words) != text:
            return None
        return list(itertools.chain.from_iterable(map(self._known.__getitem__, words)))


class _Known(dict[str, tuple[int, ...]]):
    """Word -> its ids, found when first asked for."""

    def __init__(self, find: Callable[[str], list[int]]) -> None:
        self._find = find

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._find(word))
        if len(word) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = ids
        return ids


def _visible(character: str) -> bool:
    """Whether there is a character, and every library knows that it is no white space."""
    return character != "" and character.isprintable()


def ascii_pattern(source: str) -> re.Pattern[str] | None:
    """The expression for ASCII text; None if it holds anything whose meaning might differ between the libraries."""
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
    """The expression of a pre-tokeniser that does nothing but cut by it and write bytes as letters."""
    state: dict[str, Any] = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer is not None else {}
    steps = state.get("pretokenizers", [state])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return GPT2 if last["use_regex"] else None
    first = steps[0]
    if len(steps) != 2 or last["use_regex"] or first["type"] != "Split":
        return None
    return first["pattern"].get("Regex") if first["behavior"] == "Isolated" and not first["invert"] else None


def _agree(pattern: re.Pattern[str], pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> bool:
    """Whether both cut every three characters of a kind alike."""
    assert pre_tokenizer is not None
    text = "".join(map("".join, itertools.product(PROBES, repeat=3)))
    words = [word.translate(BYTE_LETTERS) for word in pattern.findall(text)]
    return words == [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
