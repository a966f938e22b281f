"""How the bytes of a source's files are read, as its keys say: delimiter, encoding, and the split of a JSON file."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a source's keys say about its files.

    Attributes:
        source: The source's key, ``data.mix.mine``, for advice.
        delimiter: What separates the fields of a table; None takes what the ending says.
        encoding: Encoding of text files; None is UTF-8.
        split: Key of a JSON object that holds the rows, if it has that key.
        named: Whether the user asked for that key by name.
        split_key: The configuration key that names the split; None where none does.
    """

    source: str = "data.mix.local"
    delimiter: str | None = None
    encoding: str | None = None
    split: str = "train"
    named: bool = False
    split_key: str | None = None

    @property
    def wide(self) -> bool:
        """Whether lines do not end in the byte 10, so that a file cannot be cut into lines before it is decoded."""
        return self.encoding is not None and line_end(self.encoding) != b"\n"


DEFAULT_OPTIONS = ReadOptions()
TAB_NAMES = ("\\t", "tab")
"""How a tab is typed."""


def parse_delimiter(text: str | None) -> str | None:
    """The delimiter behind what a user typed."""
    return "\t" if text in TAB_NAMES else text


@cache
def line_end(encoding: str) -> bytes:
    """A line end in an encoding, without the mark some begin with."""
    return "\n\n".encode(encoding)[len("\n".encode(encoding)) :]


@cache
def is_single_byte(encoding: str) -> bool:
    """Whether every byte is one character, so that text in UTF-8 would be read as other characters."""
    return len(b"\xc3\xa9".decode(encoding, "replace")) == 2
