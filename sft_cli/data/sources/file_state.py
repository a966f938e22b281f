"""Scan a file once for its digest and cut points, and check that it does not change afterwards.

The stamp of a file is recorded with its fingerprint for the rest of the process, so that a change before or during
reading is detected.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sft_cli.data.sources.lines import BOM, FileSpan
from sft_cli.errors import SftError

CHUNK = 1 << 20
"""Bytes read at once."""


class FileStamp(NamedTuple):
    """The size of a file in bytes, and the time of its last change in nanoseconds."""

    size: int
    changed: int


class FileScan(NamedTuple):
    """The BLAKE2b of a file, 32 hexadecimal digits, and the ranges of whole lines that are not blank."""

    digest: str
    ranges: tuple[FileSpan, ...]


_stamps: dict[Path, FileStamp] = {}


def record_stamp(file: Path) -> FileStamp:
    """Record the stamp that the file must keep until the next ``record_stamp``, and return it."""
    _stamps[file] = _stamp(file)
    return _stamps[file]


def recorded_stamp(file: Path) -> FileStamp:
    """Return the recorded stamp of the file; record it if there is none."""
    return _stamps[file] if file in _stamps else record_stamp(file)


def check_unchanged(file: Path, stamp: FileStamp, label: str) -> None:
    """Check that the file still has this stamp."""
    try:
        same = _stamp(file) == stamp
    except FileNotFoundError as error:
        fix = "put it back, then run the command again"
        raise SftError(where=label, problem="the file was removed while it was read", fix=fix) from error
    if not same:
        fix = "run the command again when no process writes to the file"
        raise SftError(where=label, problem="the file changed while it was read", fix=fix)


@cache
def scan_file(file: Path, stamp: FileStamp, label: str, range_bytes: int | None) -> FileScan:
    """Read the file once, for its digest and its line ranges of about ``range_bytes`` (None: no ranges)."""
    digest, cutter, position = hashlib.blake2b(digest_size=16), _RangeCutter(range_bytes), 0
    check_unchanged(file, stamp, label)
    with open(file, "rb", buffering=0) as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            if range_bytes is not None:
                cutter.add(chunk.removeprefix(BOM) if position == 0 else chunk, position + len(chunk))
            position += len(chunk)
    check_unchanged(file, stamp, label)
    cutter.close(position)
    return FileScan(digest.hexdigest(), tuple(cutter.ranges))


class _RangeCutter:
    """Cuts chunks of a file after the first line end at or beyond ``size`` bytes from the last cut.

    Attributes:
        ranges: The ranges that are not blank.
    """

    def __init__(self, size: int | None) -> None:
        self.ranges: list[FileSpan] = []
        self._size, self._start, self._before, self._number, self._blank = size or 0, 0, 0, 0, True

    def add(self, chunk: bytes, end: int) -> None:
        """Add the next bytes; ``end`` is their end position in the file."""
        while True:
            position = end - len(chunk)
            cut = chunk.find(b"\n", max(0, self._start + self._size - position - 1))
            head = chunk if cut < 0 else chunk[: cut + 1]
            self._number += head.count(b"\n")
            self._blank = self._blank and (not head or head.isspace())
            if cut < 0:
                return
            self.close(position + cut + 1)
            chunk = chunk[cut + 1 :]

    def close(self, end: int) -> None:
        """End the current range."""
        if not self._blank:
            self.ranges.append(FileSpan(self._start, end, self._before))
        self._start, self._before, self._blank = end, self._number, True


def _stamp(file: Path) -> FileStamp:
    """Return the current stamp of the file."""
    status = file.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)
