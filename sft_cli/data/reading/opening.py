"""The bytes of a file, here or on a server, unpacked; and its lines, each with its number and where it ends."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sft_cli.data.reading.remote import RemoteFile
from sft_cli.errors import SftError

File = Path | RemoteFile
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Span(NamedTuple):
    """A part of a file.

    Attributes:
        start: First byte, row group or record batch, whichever the kind of file is cut by; from 0.
        stop: The one behind the last; None reads to the end.
        before: The number of the last line or row before it.
    """

    start: int = 0
    stop: int | None = None
    before: int = 0


WHOLE = Span()


class Line(NamedTuple):
    """A physical line: its number from 1, its bytes with their end, and the position behind it in unpacked bytes."""

    number: int
    content: bytes
    end: int


def lines(file: File, label: str, span: Span = WHOLE) -> Iterator[Line]:
    """Physical lines of UTF-8 without its mark. A span begins and ends where lines do; packed files have but one."""
    end = span.start
    with _told(label), _unpacked(file) as opened:
        _forward(opened, span.start)
        for number, line in enumerate(opened, start=span.before + 1):
            end += len(line)
            if number == 1 and line.startswith(UTF16_MARKS):
                raise SftError(where=label, problem="the file is UTF-16, not UTF-8", fix="save it as UTF-8")
            yield Line(number, line.removeprefix(BOM) if number == 1 else line, end)
            if end == span.stop:
                return


def _forward(opened: BinaryIO | io.BufferedIOBase, start: int) -> None:
    """Go to a position; a server that sends no parts is read up to it."""
    if opened.seekable():
        opened.seek(start)
    else:
        while start > 0 and (skipped := len(opened.read(min(start, 1 << 20)))):
            start -= skipped


@contextmanager
def _unpacked(file: File) -> Iterator[BinaryIO | io.BufferedIOBase]:
    """The bytes of a file; reading a cut or broken archive raises."""
    suffix = file.suffix.lower()
    with file.open("rb") as opened:
        if suffix == ".gz":
            yield gzip.GzipFile(fileobj=opened)
        elif suffix == ".bz2":
            yield bz2.BZ2File(opened)
        elif suffix == ".xz":
            yield lzma.LZMAFile(opened)  # noqa: SIM115
        elif suffix == ".zst":
            import pyarrow  # the zstandard package returns the first part of a cut file without a word

            yield io.BufferedReader(pyarrow.CompressedInputStream(opened, "zstd"), 1 << 20)  # pyright: ignore
        else:
            yield opened


@contextmanager
def _told(label: str) -> Iterator[None]:
    """What goes wrong with the bytes, as a problem of the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(
            where=label,
            problem=f"cannot be read: {reason}",
            fix="fetch or write the file again; it is incomplete or broken",
        ) from error
