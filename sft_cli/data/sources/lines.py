"""The bytes of a file, here or on a server, unpacked; and its lines, each with its number and where it ends."""

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
"""Bytes of a row: 256 MiB are a library, not a row."""
FREE_BYTES, MAX_RATIO = 1 << 26, 500
"""Unpacked bytes that any packed file may have, and how many times its packed bytes it may have beyond: text packs to a
tenth, the most repetitive to a hundredth, and a bomb to a thousandth or less."""


class FileSpan(NamedTuple):
    """A part of a file.

    Attributes:
        start: First byte, row group or record batch, whichever the kind of file is cut by; from 0.
        stop: The one behind the last; None reads to the end.
        before: The number of the last line or row before it.
    """

    start: int = 0
    stop: int | None = None
    before: int = 0


WHOLE_FILE = FileSpan()


class FileLine(NamedTuple):
    """A physical line: its number from 1, its bytes with their end, and the position behind it in unpacked bytes."""

    number: int
    content: bytes
    end: int


def read_lines(
    file: File, label: str, span: FileSpan = WHOLE_FILE, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[FileLine]:
    """Physical lines as UTF-8 without its mark. A span begins and ends where lines do; packed files have but one."""
    end = span.start
    with _translate_errors(label, options), _decompressed(file) as unpacked:
        opened = (
            io.BufferedReader(_Recoded(unpacked, options.encoding), 1 << 16)
            if options.encoding and options.wide
            else unpacked
        )
        _skip_to(opened, span.start)
        whole = iter(lambda: opened.readline(MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(whole, start=span.before + 1):
            end += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise SftError(
                    where=f"{label}:{number}",
                    problem=f"the line has more than {MAX_LINE_BYTES:,} bytes",
                    fix="write one row a line, or leave this one out",
                )
            if number == 1 and options.encoding is None and (found := _utf16_kind(line)):
                fix = f"{format_override(f'{options.source}.encoding', found)}, or save it as UTF-8"
                raise SftError(where=label, problem="the file is UTF-16, not UTF-8", fix=fix)
            line = line.removeprefix(BOM) if number == 1 else line
            if options.encoding and not options.wide and not line.isascii():
                line = _as_utf8(line, f"{label}:{number}", options.encoding, options)
            yield FileLine(number, line, end)
            if end == span.stop:
                return


def _utf16_kind(line: bytes) -> str | None:
    """The kind of UTF-16 that a first line is in: it has a mark, or its first characters are ASCII; None for others."""
    if line.startswith(UTF16_MARKS):
        return "utf-16"
    zeros = [byte == 0 for byte in line[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else None


def _as_utf8(line: bytes, where: str, encoding: str, options: ReadOptions) -> bytes:
    """A line of another encoding; one that is UTF-8 already would become other characters."""
    if is_single_byte(encoding):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            problem = f"the line is UTF-8, and {options.source}.encoding is {encoding}"
            fix = f"leave {options.source}.encoding out, or write all lines in one encoding"
            raise SftError(where=where, problem=problem, fix=fix)
    try:
        return line.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        fix = f"correct {options.source}.encoding, or save the file as UTF-8 and leave it out"
        raise SftError(where=where, problem=f"the line is not {encoding}: {error}", fix=fix) from error


class _Recoded(io.RawIOBase):
    """Bytes in another encoding as UTF-8, for encodings whose lines do not end in the byte 10."""

    def __init__(self, encoded: Any, encoding: str) -> None:
        self._encoded, self._decoder, self._waiting = encoded, codecs.getincrementaldecoder(encoding)(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            content = self._encoded.read(len(buffer))
            self._waiting = self._decoder.decode(content, final=not content).encode("utf-8")
            if not content:
                break
        taken, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _skip_to(opened: BinaryIO | io.BufferedIOBase, start: int) -> None:
    """Go to a position; a server that sends no parts is read up to it."""
    if opened.seekable():
        opened.seek(start)
    else:
        while start > 0 and (skipped := len(opened.read(min(start, 1 << 20)))):
            start -= skipped


@contextmanager
def _decompressed(file: File) -> Iterator[BinaryIO | io.BufferedIOBase]:
    """The bytes of a file; reading a cut or broken archive raises."""
    suffix = file.suffix.lower()
    with file.open("rb") as opened:
        if suffix == ".gz":
            yield _limited(gzip.GzipFile(fileobj=opened), opened)
        elif suffix == ".bz2":
            yield _limited(bz2.BZ2File(opened), opened)
        elif suffix == ".xz":
            yield _limited(lzma.LZMAFile(opened), opened)  # noqa: SIM115
        elif suffix == ".zst":
            import pyarrow  # the zstandard package returns the first part of a cut file without a word

            yield _limited(pyarrow.CompressedInputStream(opened, "zstd"), opened)
        else:
            yield opened


def _limited(unpacked: Any, packed: Any) -> io.BufferedReader:
    """The unpacked bytes, as long as they stand in a sane proportion to the packed ones read so far."""
    return io.BufferedReader(_BombGuard(unpacked, packed), 1 << 20)


class _BombGuard(io.RawIOBase):
    """Bytes of an archive that ends where it turns out to be a bomb."""

    def __init__(self, unpacked: Any, packed: Any) -> None:
        self._unpacked, self._packed, self._done = unpacked, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._unpacked.read(len(buffer))
        buffer[: len(content)] = content
        self._done += len(content)
        if self._done > FREE_BYTES + MAX_RATIO * self._packed.tell():
            raise DecompressionBomb(f"it unpacks to more than {MAX_RATIO} times its size")
        return len(content)


class DecompressionBomb(Exception):
    """A packed file that unpacks to far more than text does."""


@contextmanager
def _translate_errors(label: str, options: ReadOptions) -> Iterator[None]:
    """What goes wrong with the bytes, as a problem of the file."""
    try:
        yield
    except DecompressionBomb as error:
        raise SftError(where=label, problem=str(error), fix="unpack it yourself, if you know what it holds") from error
    except UnicodeError as error:
        fix = f"correct {options.source}.encoding, or save the file as UTF-8 and leave it out"
        raise SftError(where=label, problem=f"the file is not {options.encoding}: {error}", fix=fix) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SftError(
            where=label,
            problem=f"cannot be read: {reason}",
            fix="fetch or write the file again; it is incomplete or broken",
        ) from error
