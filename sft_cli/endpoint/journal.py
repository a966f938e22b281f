"""A journal of paid replies: each on its own line, so that a cut run continues and pays nothing twice."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from sft_cli.endpoint.client import Completion
from sft_cli.errors import SftError
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.locks import lock

Reply = TypeVar("Reply")


class Journal(Generic[Reply]):
    """The replies in a file, by the keys of their requests; for one process at a time.

    A line is on disk before its reply is used. A last line that a cut left incomplete is removed.

    Raises:
        SftError: Another process uses the file, or a line before the last is damaged.
    """

    def __init__(
        self,
        file: Path,
        busy: str,
        to_fields: Callable[[Reply], Mapping[str, Any]],
        from_fields: Callable[[Mapping[str, Any]], Reply],
    ) -> None:
        """Open the file.

        Args:
            file: The file; it is created if it does not exist.
            busy: The problem if another process uses the file.
            to_fields: Function from a reply to the fields of its line.
            from_fields: Its inverse.
        """
        self.file = file
        self._to_fields, self._from_fields = to_fields, from_fields
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock, self._guard = Lock(), file.with_name(f"{file.name}.lock").open("w")
        try:
            lock(self._guard.fileno())
        except BlockingIOError as error:
            self._guard.close()
            raise SftError(where=str(file), problem=busy, fix="wait for it, then run the command again") from error
        try:
            self._replies = self._read()
        except SftError:
            self._guard.close()
            raise
        self._stream = file.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request; None if it was not made."""
        with self._lock:
            return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Append a reply, and flush it to the disk."""
        with self._lock:
            self._stream.write(json.dumps({"key": key, **self._to_fields(reply)}) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._replies[key] = reply

    def close(self) -> None:
        """Close the file and release its lock."""
        self._stream.close()
        self._guard.close()

    def _read(self) -> dict[str, Reply]:
        """Return the replies in the file, after removing an incomplete last line from it."""
        if not self.file.is_file():
            return {}
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(self.file, whole)
        replies = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                fields = json.loads(line)
                replies[str(fields["key"])] = self._from_fields(fields)
            except (ValueError, KeyError, TypeError) as error:
                where, problem = f"{self.file}:{number}", "this is not a line of a journal"
                raise SftError(
                    where=where, problem=problem, fix="remove the line; its request is then sent again"
                ) from error
        return replies


def open_completions(file: Path, busy: str) -> Journal[Completion]:
    """Return the journal of an endpoint's completions: their texts, tokens and durations."""
    return Journal(file, busy, _to_fields, _from_fields)


def _to_fields(reply: Completion) -> dict[str, Any]:
    fields: dict[str, Any] = {"reply": reply.text, "input_tokens": reply.input_tokens}
    fields |= {"output_tokens": reply.output_tokens, "seconds": round(reply.seconds, 3)}
    return fields | ({"estimated": True} if reply.estimated else {})


def _from_fields(fields: Mapping[str, Any]) -> Completion:
    counts = int(fields["input_tokens"]), int(fields["output_tokens"]), float(fields["seconds"])
    return Completion(str(fields["reply"]), *counts, "estimated" in fields)
