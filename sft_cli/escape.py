"""Text made safe to look at: what hides, steers a terminal or turns the direction of writing is spelled out."""

import re

_NON_CHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, or set a direction
    f"\U000e0000-\U000e0fff\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]"  # tags, lone surrogates, no characters at all
)
_DELETE = 0x7F


def visible(text: str) -> str:
    """The text with every hidden character as a sign: ESC as ``␛``, a bidi override as ``⟨U+202E⟩``.

    Newlines and tabs stay, as do the joiners that emoji and many scripts need. Character by character, so that parts
    made visible join to the whole made visible.
    """
    return _HIDDEN.sub(lambda found: _sign(ord(found.group())), text)


def _sign(code: int) -> str:
    """A picture for the controls of ASCII, the number for everything else."""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == _DELETE else f"⟨U+{code:04X}⟩"


def one_line(text: str) -> str:
    """The text made visible, on one line: newlines as ``↵``."""
    return visible(text.replace("\n", "↵").replace("\t", " "))


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters of the text and, where something was cut from its middle, how much."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 3, limit // 3
    return f"{text[:head]} […{len(text) - head - tail:,} characters…] {text[len(text) - tail :]}"
