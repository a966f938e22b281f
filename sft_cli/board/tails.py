"""Read only the new lines of files that grow, and only the ends of long ones."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""One line of a JSONL file."""


class JsonLinesTail:
    """A JSONL file that another process appends to or replaces.

    A resumed run replaces its metrics by a file without the steps that it computes again, so that the file is another
    one (its inode differs) or shorter.

    Args:
        file: The file; it may not exist yet.
        first_bytes: Bytes before its end that the first read begins at; None reads it whole.
    """

    def __init__(self, file: Path, first_bytes: int | None = None) -> None:
        self._file, self._first_bytes = file, first_bytes
        self._inode, self._offset = -1, 0

    def read(self) -> tuple[list[Line], bool]:
        """Return the complete lines since the last call, and whether lines of earlier calls are no longer valid."""
        try:
            stream = self._file.open("rb")
        except OSError:
            replaced = self._inode != -1
            self._inode, self._offset = -1, 0
            return [], replaced
        with stream:
            found = os.fstat(stream.fileno())
            replaced = self._inode != -1 and (found.st_ino != self._inode or found.st_size < self._offset)
            if replaced or self._inode == -1:
                self._inode = found.st_ino
                self._offset = max(0, found.st_size - self._first_bytes) if self._first_bytes is not None else 0
                if self._offset:  # the line that begins before this position is left out
                    stream.seek(self._offset - 1)
                    self._offset += len(stream.readline()) - 1
            stream.seek(self._offset)
            content = stream.read(max(0, found.st_size - self._offset))
        end = content.rfind(b"\n") + 1
        self._offset += end
        return list(_objects(content[:end])), replaced


def _objects(content: bytes) -> Iterator[Line]:
    """Yield the JSON objects of complete lines; a damaged line is left out."""
    for raw in content.splitlines():
        try:
            value = json.loads(raw)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def read_last_lines(file: Path, max_bytes: int, max_lines: int) -> tuple[list[str], bool]:
    """Return the last lines of a text file, and whether earlier ones are left out; none if there is no file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            start = max(0, size - max_bytes)
            stream.seek(start)
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return [], False
    lines = lines[1:] if start else lines
    return lines[-max_lines:], bool(start) or len(lines) > max_lines


def read_first_line(file: Path, max_bytes: int = 4096) -> str:
    """Return the first line of a text file; an empty text if there is no file."""
    try:
        with file.open("rb") as stream:
            return stream.readline(max_bytes).decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return ""
