"""Read the lines of a local or remote file, decompressed, each with its number and end position."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.sources.read_options import DEFAULT_OPTIONS, ReadOptions, is_single_byte
from sft_cli.data.sources.remote import RemoteFile
from sft_cli.errors import SftError

File = Path | RemoteFile
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


MAX_LINE_BYTES = 1 << 28
"""The longest line, 256 MiB: a longer one is not a row."""
FREE_BYTES, MAX_RATIO = 1 << 26, 500
"""Decompressed bytes that any file may have, and the limit of its compression ratio beyond them.

Text compresses to a tenth, repetitive text to a hundredth, a decompression bomb to a thousandth or less.
"""


class FileSpan(NamedTuple):
    """A part of a file.

    Attributes:
        start: First byte, row group or record batch (the unit depends on the kind of file), from 0.
        stop: End, exclusive; None reads to the end.
        before: Number of the last line or row before the span.
    """

    start: int = 0
    stop: int | None = None
    before: int = 0


WHOLE_FILE = FileSpan()


class FileLine(NamedTuple):
    """A physical line: its number from 1, its bytes with the line end, and its end position in decompressed bytes."""

    number: int
    content: bytes
    end: int


def read_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[FileLine]:
    """Yield physical lines as UTF-8 without a byte-order mark.

    A span begins and ends at line boundaries; compressed files have a single span.

    Args:
        file: The file.
        label: Its label, for errors.
        span: The part to read.
        options: How the file is read.
    """
    end = span.start
    with _translate_errors(label, options), _decompressed(file) as unpacked:
        opened = (
            io.BufferedReader(_Recoded(unpacked, options.encoding), 1 << 16)
            if options.encoding and options.wide
            else unpacked
        )
        _skip_to(opened, span.start)
        lines = iter(lambda: opened.readline(MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, start=span.before + 1):
            end += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise SftError(
                    where=f"{label}:{number}",
                    problem=f"the line has more than {MAX_LINE_BYTES:,} bytes",
                    fix="write one row per line, or remove this line",
                )
            if number == 1 and options.encoding is None and (utf16 := _utf16_kind(line)):
                fix = f"{format_override(f'{options.source}.encoding', utf16)}, or save it as UTF-8"
                raise SftError(where=label, problem="the file is UTF-16, not UTF-8", fix=fix)
            line = line.removeprefix(BOM) if number == 1 else line
            if options.encoding and not options.wide and not line.isascii():
                line = _as_utf8(line, f"{label}:{number}", options.encoding, options)
            yield FileLine(number, line, end)
            if end == span.stop:
                return


def _utf16_kind(line: bytes) -> str | None:
    """Return the UTF-16 encoding of a first line, by its mark or its ASCII characters; None for any other."""
    if line.startswith(UTF16_MARKS):
        return "utf-16"
    zeros = [byte == 0 for byte in line[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else None


def _as_utf8(line: bytes, where: str, encoding: str, options: ReadOptions) -> bytes:
    """Return a line of another encoding as UTF-8; a non-ASCII line that is UTF-8 already is an error."""
    if is_single_byte(encoding):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            problem = f"the line is UTF-8, but {options.source}.encoding is {encoding}"
            fix = f"remove {options.source}.encoding, or write all lines in one encoding"
            raise SftError(where=where, problem=problem, fix=fix)
    try:
        return line.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        fix = f"correct {options.source}.encoding, or remove it and save the file as UTF-8"
        raise SftError(where=where, problem=f"the line is not {encoding}: {error}", fix=fix) from error


class _Recoded(io.RawIOBase):
    """A stream that converts an encoding whose lines do not end in the byte 10 to UTF-8."""

    def __init__(self, encoded: Any, encoding: str) -> None:
        self._encoded, self._decoder, self._pending = encoded, codecs.getincrementaldecoder(encoding)(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with UTF-8 and return the number of bytes; 0 at the end."""
        while not self._pending:
            content = self._encoded.read(len(buffer))
            self._pending = self._decoder.decode(content, final=not content).encode("utf-8")
            if not content:
                break
        taken, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _skip_to(opened: BinaryIO | io.BufferedIOBase, start: int) -> None:
    """Seek to a position; a stream that cannot seek is read up to it."""
    if opened.seekable():
        opened.seek(start)
    else:
        while start > 0 and (skipped := len(opened.read(min(start, 1 << 20)))):
            start -= skipped


@contextmanager
def _decompressed(file: File) -> Iterator[BinaryIO | io.BufferedIOBase]:
    """Yield a file's decompressed bytes; reading a truncated or broken archive raises."""
    suffix = file.suffix.lower()
    with file.open("rb") as opened:
        if suffix == ".gz":
            yield _limited(gzip.GzipFile(fileobj=opened), opened)
        elif suffix == ".bz2":
            yield _limited(bz2.BZ2File(opened), opened)
        elif suffix == ".xz":
            yield _limited(lzma.LZMAFile(opened), opened)  # noqa: SIM115
        elif suffix == ".zst":
            import pyarrow  # the zstandard package reads a truncated file without an error

            yield _limited(pyarrow.CompressedInputStream(opened, "zstd"), opened)
        else:
            yield opened


def _limited(unpacked: Any, packed: Any) -> io.BufferedReader:
    """Return the decompressed bytes, guarded against decompression bombs."""
    return io.BufferedReader(_BombGuard(unpacked, packed), 1 << 20)


class _BombGuard(io.RawIOBase):
    """A stream of decompressed bytes that raises ``DecompressionBomb`` beyond the allowed ratio."""

    def __init__(self, unpacked: Any, packed: Any) -> None:
        self._decompressed, self._compressed, self._num_bytes = unpacked, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with decompressed bytes and return their number; 0 at the end."""
        content = self._decompressed.read(len(buffer))
        buffer[: len(content)] = content
        self._num_bytes += len(content)
        if self._num_bytes > FREE_BYTES + MAX_RATIO * self._compressed.tell():
            raise DecompressionBomb(f"the file decompresses to more than {MAX_RATIO} times its size")
        return len(content)


class DecompressionBomb(Exception):
    """A compressed file that decompresses to far more bytes than text does."""


@contextmanager
def _translate_errors(label: str, options: ReadOptions) -> Iterator[None]:
    """Convert errors of reading bytes to errors of the file."""
    try:
        yield
    except DecompressionBomb as error:
        raise SftError(
            where=label, problem=str(error), fix="decompress it yourself if you trust its content"
        ) from error
    except UnicodeError as error:
        fix = f"correct {options.source}.encoding, or remove it and save the file as UTF-8"
        raise SftError(where=label, problem=f"the file is not {options.encoding}: {error}", fix=fix) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SftError(
            where=label,
            problem=f"cannot be read: {reason}",
            fix="download or write the file again; it is incomplete or broken",
        ) from error
