"""Record the messages that a template accesses, to find out whether a shorter conversation would render the same."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.sandbox.budget import RecordedSequence


class MessageAccessLog:
    """Accesses of a rendering that would have a different result in a shorter conversation.

    Attributes:
        unknown_counts: The lengths of prefixes whose rendering may differ; that of all messages cannot.
        skipped: Number of messages that the loop leaves out at the front.
    """

    def __init__(self, count: int) -> None:
        self._count, self._reached, self._looped = count, 0, False
        self.unknown_counts: set[int] = set()
        self.skipped = 0

    def record_index(self, index: int) -> None:
        """Record that the message at ``index``, or its existence, was read while message ``_reached`` is rendered."""
        self.unknown_counts.update(range(self._reached + 1, min(index + 1, self._count)))

    def record_length(self) -> None:
        """Record a read that depends on the number of messages."""
        self.record_index(self._count)

    def main_loop(self, messages: Any) -> Any:
        """Return the expression that the template's main loop iterates over."""
        if not isinstance(messages, TracedMessages) or self._looped:
            self._reached = 0
            self.record_length()
            return messages
        self._looped = True
        self.skipped = messages._start
        return self._iterate(messages)

    def _iterate(self, messages: "TracedMessages") -> Iterator[Mapping[str, Any]]:
        """Yield the messages; when a message is requested, all messages before it have been rendered."""
        for index in range(messages._start, self._count):
            self._reached = index
            yield messages._all[index]

    def record_lookahead(self, index: int, value: Any, at_next: bool) -> Any:
        """Record that round ``index`` of the loop read the next message (``at_next``) or all; return ``value``."""
        self._reached = self.skipped + index
        self.record_index(self._reached + 1 if at_next else self._count)
        return value


class TracedMessages(RecordedSequence):
    """Messages that record accesses to them; the first ``start`` messages are left out."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], start: int, log: MessageAccessLog) -> None:
        self._all, self._start, self._log = messages, start, log
        self._entries = messages[start:] if start else messages

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int and key >= 0:
            self._log.record_index(key + self._start)
            return self._entries[key]
        if key == slice(1, None, None) and self._start == 0:
            return TracedMessages(self._all, 1, self._log)
        self._log.record_length()
        return self._entries[key]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for index in range(self._start, len(self._all)):
            self._log.record_index(index)
            yield self._all[index]
        self._log.record_length()

    def __len__(self) -> int:
        self._log.record_length()
        return len(self._all) - self._start

    def __bool__(self) -> bool:
        self._log.record_index(self._start)
        return len(self._all) > self._start

    def __eq__(self, other: object) -> bool:
        return self[:] == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        self._log.record_length()
        return repr(self._entries)
