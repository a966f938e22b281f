"""Split texts of any script into words for comparison."""

import functools
import re
import unicodedata


def normalized_words(text: str) -> list[str]:
    """Return the words of a text for comparison: lower case, letters and digits only.

    Letters keep their combining marks (accents, vowel signs); Chinese, Japanese, Thai, Lao, Burmese and Khmer are split
    into single characters.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _unicode_word().findall(unicodedata.normalize("NFC", text).casefold())


_ASCII_WORD = re.compile(r"[a-z0-9]+")
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


@functools.cache
def _unicode_word() -> re.Pattern[str]:
    r"""Return a pattern for words of any script; combining marks are listed because ``\w`` does not match them.

    Only marks below U+10000 are listed: Python searches larger character classes many times slower.
    """
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    letters = rf"[^\W_{_UNSPACED}]"
    return re.compile(rf"{letters}+(?:[{marks}]+{letters}*)*|(?!\W)[{_UNSPACED}][{marks}]*")
