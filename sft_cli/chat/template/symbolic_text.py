"""Texts of messages whose characters a template cannot read: a rendering with them holds for all contents.

A ``SymbolicText`` takes the place of a message's content. It can be written, joined to other texts, and stripped of
white space. Every question about its characters raises ``ContentInspected``, except those whose answer ``SymbolicLog``
records as a condition (``'</think>' in content``) or which every text of visible characters answers alike (is it
empty, is it a string). So if a rendering ends, every conversation with the same roles whose contents meet the
conditions takes the same steps, and its text is the result with those contents inserted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, NoReturn


class ContentInspected(BaseException):
    """A template reads the characters of a content.

    Not an ``Exception``: Jinja's tests and filters turn those into results (``content is sequence`` would be false).
    """


class Insertion(NamedTuple):
    """The content of a message, after ``str`` methods that strip white space.

    Attributes:
        message: Index of the message.
        strips: The methods and their arguments, in order.
    """

    message: int
    strips: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def text(self, content: str) -> str:
        """Return the text for a content."""
        for method, arguments in self.strips:
            content = getattr(content, method)(*arguments)
        return content


@dataclass
class SymbolicLog:
    """What one or more renderings assume and create.

    Attributes:
        absent: Texts that no content may contain.
        literal_size: Most characters of the template's own text in one value.
        max_copies: Most copies of one content in one value.
    """

    absent: set[str] = field(default_factory=set)
    literal_size: int = 0
    max_copies: int = 0


MAX_COPIES = 100
"""Most copies of one content in one value: a template may double a text in each step of a loop."""


class SymbolicText:
    """Literal texts and contents in a row; its attributes are private, since templates cannot read private names."""

    __slots__ = ("_log", "_parts")

    def __init__(self, parts: Iterable["str | Insertion"], log: SymbolicLog) -> None:
        self._parts, self._log = tuple([part for part in parts if part != ""]), log
        log.literal_size = max(log.literal_size, sum(len(part) for part in self._parts if isinstance(part, str)))
        copies = Counter(part.message for part in self._parts if isinstance(part, Insertion))
        log.max_copies = max(log.max_copies, *copies.values())
        if log.max_copies > MAX_COPIES:
            raise ContentInspected("too many copies of one content")

    @classmethod
    def join(cls, values: Sequence[Any]) -> "SymbolicText":
        """Return values in a row, at least one of them a ``SymbolicText``."""
        log = next(value._log for value in values if isinstance(value, cls))
        parts = [value._parts if isinstance(value, cls) else (str(value),) for value in values]
        return cls(chain.from_iterable(parts), log)

    def __add__(self, other: Any) -> "SymbolicText":
        if not isinstance(other, str | SymbolicText):
            return NotImplemented
        return SymbolicText.join([self, other])

    def __radd__(self, other: Any) -> "SymbolicText":
        if not isinstance(other, str):
            return NotImplemented
        return SymbolicText.join([other, self])

    def strip(self, *characters: Any) -> "SymbolicText":
        """Return the text without white space at both ends."""
        return self._stripped("strip", characters)

    def lstrip(self, *characters: Any) -> "SymbolicText":
        """Return the text without white space at its beginning."""
        return self._stripped("lstrip", characters)

    def rstrip(self, *characters: Any) -> "SymbolicText":
        """Return the text without white space at its end."""
        return self._stripped("rstrip", characters)

    def _stripped(self, method: str, characters: tuple[Any, ...]) -> "SymbolicText":
        """Strip the first and the last part; stripping visible characters might leave nothing of a content."""
        if len(characters) > 1 or not all(isinstance(text, str) and text.isspace() for text in characters):
            self._refuse()
        if len(self._parts) == 1:
            return SymbolicText([self._stripped_part(self._parts[0], method, characters)], self._log)
        parts = list(self._parts)
        if method != "rstrip":
            parts[0] = self._stripped_part(parts[0], "lstrip", characters)
        if method != "lstrip":
            parts[-1] = self._stripped_part(parts[-1], "rstrip", characters)
        return SymbolicText(parts, self._log)

    def _stripped_part(self, part: str | Insertion, method: str, characters: tuple[str, ...]) -> str | Insertion:
        """Strip a part; a literal of white space alone is refused, since the part next to it would be stripped."""
        if isinstance(part, Insertion):
            return part._replace(strips=(*part.strips, (method, characters)))
        return getattr(part, method)(*characters) or self._refuse()

    def _content(self) -> Insertion:
        """Return the content that this text is."""
        if len(self._parts) != 1 or not isinstance(self._parts[0], Insertion):
            self._refuse()
        return self._parts[0]

    def __contains__(self, text: Any) -> bool:
        self._content()
        if not isinstance(text, str) or not text:
            self._refuse()
        self._log.absent.add(text)
        return False

    def startswith(self, text: Any) -> bool:
        """Return False, and record that no content contains the text."""
        return text in self

    def endswith(self, text: Any) -> bool:
        """Return False, and record that no content contains the text."""
        return text in self

    def __bool__(self) -> bool:
        return True  # a content has visible characters

    def __eq__(self, other: object) -> bool:
        if other is not None and other != "":
            self._refuse()
        return False

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Reject every other use."""
        raise ContentInspected

    __hash__ = __len__ = __iter__ = __getitem__ = __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]
    __lt__ = __le__ = __gt__ = __ge__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __getattr__ = __int__ = __float__ = __index__ = __call__ = __reversed__ = __bytes__ = _refuse


def parts_of(text: "str | SymbolicText") -> tuple[list[str], list[Insertion]]:
    """Return the literals and the contents of a rendering: a content follows each literal but the last one."""
    literals, insertions = [""], []
    for part in text._parts if isinstance(text, SymbolicText) else [text]:
        if isinstance(part, str):
            literals[-1] += part
        else:
            insertions.append(part)
            literals.append("")
    return literals, insertions
