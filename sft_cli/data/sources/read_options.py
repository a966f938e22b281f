"""Define the options of reading a source's files: delimiter, encoding, and the split of a JSON file."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The reading options of a source's files.

    Attributes:
        source: Key of the source, ``data.mix.mine``, for advice.
        delimiter: Field delimiter of tables; None uses that of the suffix.
        encoding: Encoding of text files; None is UTF-8.
        split: Key of the rows in a JSON object, if it has that key.
        named: Whether the user set the split.
        split_key: The configuration key of the split; None if there is none.
    """

    source: str = "data.mix.local"
    delimiter: str | None = None
    encoding: str | None = None
    split: str = "train"
    named: bool = False
    split_key: str | None = None

    @property
    def wide(self) -> bool:
        """Whether lines do not end in the byte 10, so that a file must be decoded before it is split into lines."""
        return self.encoding is not None and line_end(self.encoding) != b"\n"


DEFAULT_OPTIONS = ReadOptions()
TAB_NAMES = ("\\t", "tab")
"""Names of a tab in a setting."""


def parse_delimiter(text: str | None) -> str | None:
    """Return the delimiter of a setting."""
    return "\t" if text in TAB_NAMES else text


@cache
def line_end(encoding: str) -> bytes:
    """Return a line end in an encoding, without a byte-order mark."""
    return "\n\n".encode(encoding)[len("\n".encode(encoding)) :]


@cache
def is_single_byte(encoding: str) -> bool:
    """Return whether every byte is one character, so that UTF-8 text would be misread without an error."""
    return len(b"\xc3\xa9".decode(encoding, "replace")) == 2
