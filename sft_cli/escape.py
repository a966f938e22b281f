"""Escape text for display: hidden characters, terminal control sequences and bidirectional overrides become visible."""

import re

_NON_CHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls except tab and newline
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible or directional
    f"\U000e0000-\U000e0fff\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]"  # tags, lone surrogates, noncharacters
)
_DELETE = 0x7F


def escape_control(text: str) -> str:
    """Replace every hidden character by a symbol: ESC by ``␛``, a bidi override by ``⟨U+202E⟩``.

    Newlines and tabs are kept, as are the joiners that emoji and many scripts need. Characters are replaced one by one,
    so that escaped parts concatenate to the escaped whole.
    """
    return _HIDDEN.sub(lambda found: _symbol(ord(found.group())), text)


def _symbol(code: int) -> str:
    """Return a symbol for ASCII control characters, and the code point for all others."""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == _DELETE else f"⟨U+{code:04X}⟩"


def one_line(text: str) -> str:
    """Escape the text and put it on one line, with newlines as ``↵``."""
    return escape_control(text.replace("\n", "↵").replace("\t", " "))


def truncate_middle(text: str, limit: int) -> str:
    """Shorten the text to ``limit`` characters by cutting its middle, and write how much was cut."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 3, limit // 3
    return f"{text[:head]} […{len(text) - head - tail:,} characters…] {text[len(text) - tail :]}"
