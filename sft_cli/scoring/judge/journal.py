"""The journal of a judge: every paid reply on its own line, so that a cut run continues and pays nothing twice."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from sft_cli.endpoint.client import Completion
from sft_cli.errors import SftError
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.locks import lock


class Journal:
    """The replies in a file, by the keys of their requests; for one process at a time.

    A line is on disk before its reply is used. A last line that a cut left incomplete is removed.

    Raises:
        SftError: Another process uses the file, or a line before the last is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock, self._guard = Lock(), file.with_name(f"{file.name}.lock").open("w")
        try:
            lock(self._guard.fileno())
        except BlockingIOError as error:
            self._guard.close()
            problem, fix = "another process is judging the same answers", "wait for it, then run the command again"
            raise SftError(where=str(file), problem=problem, fix=fix) from error
        try:
            self._replies = _read(file)
        except SftError:
            self._guard.close()
            raise
        self._stream = file.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Completion | None:
        """Return the reply to a request; None if it was not made."""
        with self._lock:
            return self._replies.get(key)

    def add(self, key: str, reply: Completion) -> None:
        """Append a reply, and flush it to the disk."""
        fields: dict[str, Any] = {"key": key, "reply": reply.text, "input_tokens": reply.input_tokens}
        fields |= {"output_tokens": reply.output_tokens, "seconds": round(reply.seconds, 3)}
        fields |= {"estimated": True} if reply.estimated else {}
        with self._lock:
            self._stream.write(json.dumps(fields) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._replies[key] = reply

    def close(self) -> None:
        """Close the file and release its lock."""
        self._stream.close()
        self._guard.close()


def _read(file: Path) -> dict[str, Completion]:
    """Return the replies in a file, after removing an incomplete last line from it."""
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomic(file, whole)
    replies = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            fields = json.loads(line)
            counts = int(fields["input_tokens"]), int(fields["output_tokens"]), float(fields["seconds"])
            replies[str(fields["key"])] = Completion(str(fields["reply"]), *counts, "estimated" in fields)
        except (ValueError, KeyError, TypeError) as error:
            fix = "remove the line; its request is then sent again"
            raise SftError(where=f"{file}:{number}", problem="this is not a line of a journal", fix=fix) from error
    return replies
