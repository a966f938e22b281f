"""What a template asks about messages while it runs: whether a shorter conversation would have answered the same."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Asked:
    """What a run has asked about messages that a shorter conversation would not have.

    Attributes:
        unknown: The numbers of first messages whose rendering may differ; that of all of them cannot.
        skipped: Messages the loop leaves out at the front.
    """

    def __init__(self, count: int) -> None:
        self._count, self._reached, self._looped = count, 0, False
        self.unknown: set[int] = set()
        self.skipped = 0

    def about(self, index: int) -> None:
        """The message at ``index`` was asked for, or whether there is one, while message ``reached`` is laid out."""
        self.unknown.update(range(self._reached + 1, min(index + 1, self._count)))

    def about_all(self) -> None:
        """Something was asked that depends on the number of messages."""
        self.about(self._count)

    def main(self, messages: Any) -> Any:
        """What the template's loop runs through."""
        if not isinstance(messages, Messages) or self._looped:
            self._reached = 0
            self.about_all()
            return messages
        self._looped = True
        self.skipped = messages._start
        return self._through(messages)

    def _through(self, messages: "Messages") -> Iterator[Mapping[str, Any]]:
        """The messages; asking for one means that all before it are laid out."""
        for index in range(messages._start, self._count):
            self._reached = index
            yield messages._all[index]

    def peeked(self, index: int, value: Any, at_next: bool) -> Any:
        """``value``, for which the loop looked beyond its round ``index``: at the next message, or at all."""
        self._reached = self.skipped + index
        self.about(self._reached + 1 if at_next else self._count)
        return value


class Messages:
    """Messages that note what a template asks about them; ``start`` are left out at the front."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], start: int, asked: Asked) -> None:
        self._all, self._start, self._asked = messages, start, asked

    def __getitem__(self, key: Any) -> Any:
        if key == slice(1, None, None) and self._start == 0:
            return Messages(self._all, 1, self._asked)
        if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
            self._asked.about(key + self._start)
        else:
            self._asked.about_all()
        return self._all[self._start :][key]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for index in range(self._start, len(self._all)):
            self._asked.about(index)
            yield self._all[index]
        self._asked.about_all()

    def __len__(self) -> int:
        self._asked.about_all()
        return len(self._all) - self._start

    def __bool__(self) -> bool:
        self._asked.about(self._start)
        return len(self._all) > self._start

    def __eq__(self, other: object) -> bool:
        return self[:] == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self[:])
