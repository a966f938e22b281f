"""Slices of sources: together they equal the whole source in any process, and a changed file is detected."""

import gzip
import json
import multiprocessing
import os
import pickle

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import columnar, file_state, slices, text_files
from sft_cli.data.sources.lines import BOM
from sft_cli.data.sources.source_rows import read_slice, read_source, source_fingerprint
from sft_cli.data.sources.source_rows import source_slices as slices_of
from sft_cli.errors import SftError
from tests.data.helpers import located_values, through_slices

pytestmark = pytest.mark.usefixtures("in_an_empty_directory")


@pytest.fixture
def small(monkeypatch):
    """Make slices of 40 bytes."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 40)


def joined(pieces):
    return [row for piece in pieces for row in piece]


LINES = st.sampled_from(
    [b'{"a": 1}', b'{"a": "\xc3\xa9\xe2\x80\xa8"}', b"", b" \t", b"nonsense", b"[1]", b'{"a": "' + b"x" * 90 + b'"}']
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n"])), min_size=1),
    st.sampled_from([b"", BOM]),
    st.booleans(),
    st.integers(0, 60),
    st.integers(1, 30),
)
def test_ranges_of_lines_cover_the_file(tmp_path_factory, lines, mark, ends_open, size, chunk):
    """Any cuts and chunks of the counting pass give the same rows and numbers."""
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    content = mark + b"".join(line + end for line, end in lines)
    path.write_bytes(content.removesuffix(b"\n") if ends_open else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_state, "CHUNK", max(chunk, len(mark)))
        spans = file_state.scan_file(path, file_state.record_stamp(path), "rows.jsonl", size).ranges
    pieces = [list(text_files.read_json_lines(path, "rows.jsonl", span)) for span in spans]
    assert all(pieces)
    result = [(number, str(values)) for piece in pieces for number, values in piece]
    assert result == [(number, str(values)) for number, values in text_files.read_json_lines(path, "rows.jsonl")]


def test_cut_file_of_lines_keeps_its_numbers(tmp_path, small):
    lines = [b'{"a": %d}' % number for number in range(12)]
    lines[5] = b"nonsense"
    lines[6] = b""
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    pieces = through_slices("rows.jsonl")
    assert [[where for where, _ in piece] for piece in pieces] == [
        [f"rows.jsonl:{number}" for number in numbers] for numbers in ([1, 2, 3, 4, 5], [6, 8, 9, 10, 11], [12])
    ]
    assert joined(pieces) == located_values(read_source(SourceConfig(path="rows.jsonl"), "mine", "train"))
    assert pieces[1][0][1].startswith("rows.jsonl:6: invalid JSON")


def test_range_ends_with_the_line_that_fills_it(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "SLICE_BYTES", 18)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' * 5)
    assert [len(piece) for piece in through_slices("rows.jsonl")] == [2, 2, 1]


def test_file_changed_while_counting(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    monkeypatch.setattr(file_state._RangeCutter, "add", lambda self, chunk, end: path.write_bytes(b"{}\n"))
    with pytest.raises(SftError) as caught:
        source_fingerprint(SourceConfig(path="rows.jsonl"), "mine")
    assert str(caught.value) == CHANGED


def test_ranges_of_white_space_make_no_slice(tmp_path, small):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' + b" \n" * 100 + b'{"a": 2}\n')
    assert through_slices("rows.jsonl") == [[("rows.jsonl:1", {"a": 1})], [("rows.jsonl:102", {"a": 2})]]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_columnar_files_are_cut_by_row_groups_and_batches(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(slices, "SLICE_BYTES", 3000)
    table = pyarrow.table({"a": range(2500)})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, "rows.parquet", row_group_size=200, compression="none", use_dictionary=False)
    else:
        write = pyarrow.ipc.new_file if kind == "arrow" else pyarrow.ipc.new_stream
        with write("rows.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=200)
    path = "rows.parquet" if kind == "parquet" else "rows.arrow"
    pieces = through_slices(path)
    assert [len(piece) for piece in pieces] == [400, 400, 400, 400, 400, 400, 100]
    assert joined(pieces) == [(f"{path}:{number + 1}", {"a": number}) for number in range(2500)]


def test_shards_of_a_saved_data_set_are_numbered_continuously(tmp_path):
    rows = Dataset.from_dict({"a": list(range(7))})
    rows.save_to_disk("saved", num_shards=3)
    pieces = through_slices("saved")
    assert joined(pieces) == [(f"saved:{number + 1}", {"a": number}) for number in range(7)]


def test_hub_table_is_cut_by_rows(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 1000)
    data = Dataset.from_dict({"a": list(range(2500))})
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in slices.slice_table("owner/name@abc[train]", data.data)]
    result = [located_values(read_slice(piece, "mine")) for piece in pieces]
    assert [len(piece) for piece in result] == [1000, 1000, 500]
    assert joined(result) == [(f"owner/name@abc[train]:{number + 1}", {"a": number}) for number in range(2500)]


def test_small_files_share_a_slice_up_to_its_size(tmp_path, small):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * 15)
    pieces = through_slices(".")
    assert [[where for where, _ in piece] for piece in pieces] == [
        ["0.txt:1", "1.txt:1"],
        ["2.txt:1", "3.txt:1"],
        ["4.txt:1"],
    ]


def test_empty_shards_are_skipped_but_empty_files_are_not(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), "none.parquet")
    for path in ("none.parquet",):
        with pytest.raises(SftError, match=r"^none\.parquet: the source holds no rows\n"):
            slices_of(SourceConfig(path=path), "mine", "train")


def _count(piece):
    return os.getpid(), located_values(read_slice(piece, "mine"))


def test_slices_are_read_in_spawned_processes(tmp_path, small):
    (tmp_path / "rows.jsonl").write_bytes(b"".join(b'{"a": %d}\n' % number for number in range(20)))
    pieces = slices_of(SourceConfig(path="rows.jsonl"), "mine", "train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.map(_count, pieces)
    assert {process for process, _ in result} != {os.getpid()}
    assert [row for _, rows in result for row in rows] == located_values(
        read_source(SourceConfig(path="rows.jsonl"), "mine", "train")
    )


CHANGED = (
    "rows.jsonl: the file changed while it was read\n  fix: run the command again when no process writes to the file"
)


def test_file_changed_between_fingerprint_and_slices(tmp_path):
    config = SourceConfig(path="rows.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    source_fingerprint(config, "mine")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(SftError) as caught:
        slices_of(config, "mine", "train")
    assert str(caught.value) == CHANGED
    source_fingerprint(config, "mine")
    assert len(through_slices("rows.jsonl")) == 1


@pytest.mark.parametrize("moment", ["before", "meanwhile", "same size"])
def test_file_changed_while_reading_a_slice(tmp_path, moment):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    (piece,) = slices_of(SourceConfig(path="rows.jsonl"), "mine", "train")
    rows = read_slice(piece, "mine")
    if moment == "meanwhile":
        next(rows)
        with path.open("a") as opened:
            opened.write('{"a": 3}\n')
    elif moment == "before":
        path.write_text('{"a": 1}\n')
    else:
        path.write_text('{"a": 1}\n{"a": 5}\n')
        os.utime(path, (0, 0))
    with pytest.raises(SftError) as caught:
        list(rows)
    assert str(caught.value) == CHANGED


def test_read_slice_reports_a_change_before_broken_content(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"a": "%s"}\n' % os.urandom(50).hex().encode() for _ in range(20_000))))
    (piece,) = slices_of(SourceConfig(path="rows.jsonl.gz"), "mine", "train")
    rows = read_slice(piece, "mine")
    next(rows)
    with path.open("r+b") as opened:
        opened.truncate(200)
    with pytest.raises(SftError) as caught:
        list(rows)
    assert str(caught.value) == CHANGED.replace("rows.jsonl", "rows.jsonl.gz")


def test_read_slice_of_a_removed_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    (piece,) = slices_of(SourceConfig(path="rows.jsonl"), "mine", "train")
    path.unlink()
    with pytest.raises(SftError) as caught:
        list(read_slice(piece, "mine"))
    assert str(caught.value) == (
        "rows.jsonl: the file was removed while it was read\n  fix: put it back, then run the command again"
    )


def test_bytes_are_read_once_for_fingerprint_and_slices(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    config = SourceConfig(path="rows.jsonl")
    source_fingerprint(config, "mine")
    missed = file_state.scan_file.cache_info().misses
    slices_of(config, "mine", "train")
    assert source_fingerprint(config, "mine")["train"]["files"][0][0] == "rows.jsonl"
    assert file_state.scan_file.cache_info().misses == missed


def test_row_groups_have_rows_and_bytes(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": range(10)}), "rows.parquet", row_group_size=4)
    assert [unit.rows for unit in columnar.parquet_row_groups(tmp_path / "rows.parquet", "rows.parquet")] == [4, 4, 2]


def test_one_document_is_one_row(tmp_path):
    """The byte order mark is removed and all other text kept; a file of white space has no rows."""
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# A\r\n\r\nb\n")
    (tmp_path / "b.txt").write_text(" \n\n")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    assert through_slices("a.md") == [[("a.md:1", {"text": "# A\r\n\r\nb\n"})]]
    with pytest.raises(SftError, match=r"^b\.txt: the source holds no rows\n"):
        through_slices("b.txt")
    assert through_slices("c.txt") == [
        [
            (
                "c.txt:1",
                "c.txt:1: byte 0xe9 at position 4 is not UTF-8\n"
                "  fix: data.mix.mine.encoding=cp1252 if 'café' is the right text, or save the file as UTF-8",
            )
        ]
    ]


def test_read_source_accepts_a_file_rewritten_between_readings(tmp_path):
    """A file rewritten between two readings did not change during a reading."""
    config = SourceConfig(path="rows.jsonl")
    for content in ('{"a": 1}\n', '{"a": 10}\n'):
        (tmp_path / "rows.jsonl").write_text(content)
        assert located_values(read_source(config, "mine", "train")) == [("rows.jsonl:1", json.loads(content))]
