"""Rows of compressed files, whole and damaged."""

import bz2
import gzip
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from sft_cli.data.sources import text_files
from sft_cli.errors import SftError
from tests.data.reader_helpers import rows, write


def zst(content, level=3):
    return pyarrow.Codec("zstd", compression_level=level).compress(content, asbytes=True)


LINES = b"".join(b'{"a": %d}\n' % number for number in range(20_000))


@pytest.mark.parametrize(
    ("ending", "packed"),
    [
        pytest.param(".gz", gzip.compress(LINES), id="gz"),
        pytest.param(".gz", gzip.compress(LINES[:700]) + gzip.compress(LINES[700:]), id="gz-in-two-members"),
        pytest.param(".zst", zst(LINES), id="zst"),
        pytest.param(".zst", zst(LINES[:700]) + zst(LINES[700:]), id="zst-in-two-frames"),
        pytest.param(".bz2", bz2.compress(LINES), id="bz2"),
        pytest.param(".bz2", bz2.compress(LINES[:700]) + bz2.compress(LINES[700:]), id="bz2-in-two-streams"),
        pytest.param(".xz", lzma.compress(LINES), id="xz"),
        pytest.param(".xz", lzma.compress(LINES[:700]) + lzma.compress(LINES[700:]), id="xz-in-two-streams"),
    ],
)
def test_all_compressed_lines_are_read(tmp_path, ending, packed):
    read = rows(text_files.read_json_lines, write(tmp_path / f"rows.jsonl{ending}", packed))
    assert read == [(number + 1, {"a": number}) for number in range(20_000)]


@pytest.mark.parametrize(
    ("ending", "packed", "reason"),
    [
        pytest.param(
            ".gz",
            gzip.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-gz",
        ),
        pytest.param(".zst", zst(LINES)[:-20], "Truncated compressed stream", id="cut-zst"),
        pytest.param(".gz", LINES, "Not a gzipped file (b'{\"')", id="not-gz"),
        pytest.param(".zst", LINES, "ZSTD decompress failed: Unknown frame descriptor", id="not-zst"),
        pytest.param(
            ".bz2",
            bz2.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-bz2",
        ),
        pytest.param(".bz2", LINES, "Invalid data stream", id="not-bz2"),
        pytest.param(
            ".xz",
            lzma.compress(LINES)[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
            id="cut-xz",
        ),
        pytest.param(".xz", LINES, "Input format not supported by decoder", id="not-xz"),
    ],
)
def test_damaged_archive_is_an_error(tmp_path, ending, packed, reason):
    path = write(tmp_path / f"rows.jsonl{ending}", packed)
    with pytest.raises(SftError) as caught:
        rows(text_files.read_json_lines, path)
    assert str(caught.value) == (
        f"rows.jsonl{ending}: cannot be read: {reason}\n"
        "  fix: download or write the file again; it is incomplete or broken"
    )
