"""Text files of one document per line: requested by name; numbered, cut and streamed like JSON lines."""

import gzip
from pathlib import Path

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats import row_converter
from sft_cli.data.sources import slices as cutting
from sft_cli.data.sources.source_rows import BadRow, read_slice, read_source, source_fingerprint, source_slices
from sft_cli.data.sources.streaming import stream_blocks
from sft_cli.errors import SftError
from sft_cli.types import Row

TEXT = "\N{LATIN SMALL LETTER E WITH ACUTE}ins\n\n  zwei \r\ndrei"
FOUND = {"a.txt:1": "\N{LATIN SMALL LETTER E WITH ACUTE}ins", "a.txt:3": "  zwei ", "a.txt:4": "drei"}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(**config):
    return SourceConfig(format="lines", **config)


def places(config, side="train"):
    return {row.where: row.values["text"] for row in read_source(config, "mine", side) if isinstance(row, Row)}


def message(config):
    with pytest.raises(SftError) as caught:
        list(read_source(config, "mine", "train"))
    return str(caught.value)


def test_read_text_lines_skips_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    assert places(lines(path="a.txt")) == FOUND
    assert places(SourceConfig(path="a.txt")) == {"a.txt:1": TEXT}


@pytest.mark.parametrize("path", ["d", "d/*.txt", "d/a.txt"])
def test_lines_of_directories_and_globs(tmp_path, path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "d" / "README.md").write_text("no row")
    assert places(lines(path=path)) == FOUND


def test_compressed_and_held_out_lines(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    config = lines(path="a.txt.gz", validation_path="a.txt")
    assert list(places(config).values()) == list(FOUND.values())
    assert places(config, "validation") == FOUND


def test_line_that_is_not_utf8_is_a_bad_row(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\nthree\n")
    first, bad, last = read_source(lines(path="a.txt"), "mine", "train")
    assert isinstance(bad, BadRow)
    assert (first.where, bad.error.where, bad.error.reason, last.where) == (
        "a.txt:1", "a.txt:2", "wrong encoding", "a.txt:3")  # fmt: skip


def test_slices_hold_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "SLICE_BYTES", 64)
    (tmp_path / "a.txt").write_text("".join(f"document {number}\n" for number in range(100)))
    config = lines(path="a.txt")
    source_fingerprint(config, "mine")
    pieces = source_slices(config, "mine", "train")
    assert len(pieces) > 10
    assert [row for piece in pieces for row in read_slice(piece, "mine")] == list(read_source(config, "mine", "train"))


def test_compressed_file_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "SLICE_BYTES", 64)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("".join(f"{'x' * n}{n * n}\n" for n in range(400)).encode()))
    config = lines(path="a.txt.gz")
    (piece,) = source_slices(config, "mine", "train")
    assert len(list(read_slice(piece, "mine"))) == 400


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_stream_of_lines_resumes_after_a_line(tmp_path, name):
    content = "".join(f"document {number}\n" for number in range(40)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    config = lines(path=name, stream=True, max_rows=30, shuffle_buffer=10)
    whole = list(stream_blocks(config, "mine", "train", 3))
    rest = list(stream_blocks(config, "mine", "train", 3, whole[0].state))
    assert [block.rows for block in rest] == [block.rows for block in whole[1:]]
    assert {row.where for block in whole for row in block.rows} == {f"{name}:{number}" for number in range(1, 31)}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_lines_of_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text('{"text": "a"}\n')
    assert message(lines(path=name)) == (
        f"data.mix.mine.format: the format lines reads text files with one document per line, and '{name}' is not a "
        f"text file\n"
        "  fix: rename the file to end in .txt or .md, or remove data.mix.mine.format"
    )


def test_lines_of_a_hub_data_set_are_refused():
    assert message(lines(path="owner/name", revision="main")).startswith(
        "data.mix.mine.format: the format lines reads text files with one document per line, and 'owner/name' is not "
        "a text file\n"
    )


def test_auto_never_detects_lines():
    """A text file may contain one document or many; its column does not show which."""
    assert row_converter.make_converter(SourceConfig(), "mine", "\n", ["text"]).name == "text"
    assert row_converter.make_converter(SourceConfig(format="lines"), "mine", "\n", ["text"]).name == "lines"
    with pytest.raises(SftError):
        row_converter.make_converter(SourceConfig(), "mine", "\n", ["text", "role"])


@pytest.mark.material
def test_lines_of_real_articles():
    file = Path(__file__).parents[2].parent / "shared/material/data/text/wiki_demo.txt"
    if not file.is_file():
        pytest.skip("the file is not there")
    assert len(places(lines(path=str(file)))) == 30
    assert len(places(SourceConfig(path=str(file)))) == 1
