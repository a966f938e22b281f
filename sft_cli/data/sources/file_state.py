"""One pass over a file: its digest and where it can be cut; and whether it is still the file that was looked at.

What a file looked like is kept for the process from its fingerprint on, so that a change before or while its rows are
read is seen.
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
    """What is seen of a file without reading it: bytes, and the time of its last change in nanoseconds."""

    size: int
    changed: int


class FileScan(NamedTuple):
    """BLAKE2b of the bytes, 32 hexadecimal digits, and the ranges of whole lines that hold more than white space."""

    digest: str
    ranges: tuple[FileSpan, ...]


_stamps: dict[Path, FileStamp] = {}


def record_stamp(file: Path) -> FileStamp:
    """What the file looks like now, kept as what it has to look like until the next ``record_stamp``."""
    _stamps[file] = _stamp(file)
    return _stamps[file]


def recorded_stamp(file: Path) -> FileStamp:
    """What the file looked like when it was looked at; it is looked at now if it was not."""
    return _stamps[file] if file in _stamps else record_stamp(file)


def check_unchanged(file: Path, stamp: FileStamp, label: str) -> None:
    """Return if the file still looks as it did."""
    try:
        same = _stamp(file) == stamp
    except FileNotFoundError as error:
        fix = "put it back, then run the command again"
        raise SftError(where=label, problem="the file was removed while it was read", fix=fix) from error
    if not same:
        fix = "run the command again when nothing writes to it any more"
        raise SftError(where=label, problem="the file changed while it was read", fix=fix)


@cache
def scan_file(file: Path, stamp: FileStamp, label: str, range_bytes: int | None) -> FileScan:
    """Read the file once: its digest, and ranges of about ``range_bytes`` (None: it is no plain file of lines)."""
    digest, ranges, position = hashlib.blake2b(digest_size=16), _RangeCutter(range_bytes), 0
    check_unchanged(file, stamp, label)
    with open(file, "rb", buffering=0) as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            if range_bytes is not None:
                ranges.add(chunk.removeprefix(BOM) if position == 0 else chunk, position + len(chunk))
            position += len(chunk)
    check_unchanged(file, stamp, label)
    ranges.close(position)
    return FileScan(digest.hexdigest(), tuple(ranges.found))


class _RangeCutter:
    """Cuts a file that comes in chunks behind the first line end that lies ``size`` bytes or more behind the last cut.

    Attributes:
        found: The ranges that hold more than white space.
    """

    def __init__(self, size: int | None) -> None:
        self.found: list[FileSpan] = []
        self._size, self._start, self._before, self._number, self._blank = size or 0, 0, 0, 0, True

    def add(self, chunk: bytes, end: int) -> None:
        """The next bytes; ``end`` is the position behind them in the file."""
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
        """End the range that is open."""
        if not self._blank:
            self.found.append(FileSpan(self._start, end, self._before))
        self._start, self._before, self._blank = end, self._number, True


def _stamp(file: Path) -> FileStamp:
    status = file.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)
