"""Hostile data files: decompression bombs, endless lines, deep nesting, paths that leave the directory."""

import bz2
import gzip
import json
import lzma
import math

import pyarrow as pa
import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import lines, source_rows
from sft_cli.errors import SftError

PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def rows(path, **keys):
    """Return every row of a file, or its error."""
    return list(source_rows.read_source(SourceConfig(path=str(path), **keys), "a", "train"))


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
def test_decompression_bomb_is_refused_early(ending, kind, tmp_path, monkeypatch):
    """The limits are lowered, so that a few megabytes already exceed them."""
    monkeypatch.setattr(lines, "FREE_BYTES", 1 << 18)
    monkeypatch.setattr(lines, "MAX_RATIO", 20)
    file = tmp_path / f"rows.{kind}.{ending}"
    file.write_bytes(PACKERS[ending](b'{"text": "' + b"a" * (4 << 20) + b'"}\n'))
    with pytest.raises(SftError, match=f"rows.{kind}.{ending}: the file decompresses to more than 20 times its size"):
        rows(file)


@pytest.mark.parametrize("ending", PACKERS)
def test_repetitive_text_is_not_a_bomb(ending, tmp_path):
    line = json.dumps({"text": "the same sentence again and again. " * 20}).encode() + b"\n"
    (tmp_path / f"rows.jsonl.{ending}").write_bytes(PACKERS[ending](line * 3000))
    assert len(rows(tmp_path / f"rows.jsonl.{ending}")) == 3000


def test_row_of_megabytes_is_accepted(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a" * (8 << 20)}) + "\n")
    assert len(rows(tmp_path / "rows.jsonl")[0].values["text"]) == 8 << 20


def test_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' + "a" * 5000)
    with pytest.raises(SftError, match=r"rows.jsonl:2: the line has more than 1,000 bytes"):
        rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"text": ' + "[" * 5000 + "]" * 5000 + "}"])
def test_deeply_nested_json_is_a_bad_row(text, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text + '\n{"text": "b"}\n')
    first, second = rows(tmp_path / "rows.jsonl")
    assert second.values == {"text": "b"}
    assert isinstance(first.error, RowError) if text[0] == "[" or '"a"' in text else True


def test_non_finite_and_huge_numbers(tmp_path):
    """Python reads NaN and Infinity; a number with more digits than it converts is a bad row."""
    (tmp_path / "rows.jsonl").write_text('{"text": NaN}\n{"text": 1e999}\n{"text": ' + "9" * 5000 + "}\n")
    first, second, third = rows(tmp_path / "rows.jsonl")
    assert math.isnan(first.values["text"])
    assert second.values["text"] == math.inf
    assert third.error.reason == "invalid JSON"


STATES = [
    ({"_data_files": [{"filename": "../secret.arrow"}]}, "not names of files in the same directory"),
    ({"_data_files": [{"filename": "/etc/passwd"}]}, "not names of files in the same directory"),
    ({"_data_files": [{}]}, "not names of files in the same directory"),
    ({"_data_files": [7]}, "not names of files in the same directory"),
    ({"_data_files": []}, "not names of files in the same directory"),
    ({}, "it has no list _data_files"),
    ([], "it has no list _data_files"),
]


@pytest.mark.parametrize(("state", "problem"), STATES, ids=[str(state) for state, _ in STATES])
def test_saved_data_set_cannot_name_files_outside(state, problem, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text(json.dumps(state))
    (tmp_path / "saved/dataset_info.json").write_text("{}")
    with pytest.raises(SftError, match=problem):
        rows(tmp_path / "saved")


def test_splits_of_a_saved_data_set_stay_in_its_directory(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_dict.json").write_text(json.dumps({"splits": ["train", "../x"]}))
    with pytest.raises(SftError, match="split"):
        rows(tmp_path / "saved", split="../x")
    (tmp_path / "saved/dataset_dict.json").write_text("{")
    with pytest.raises(SftError, match="it is not JSON"):
        rows(tmp_path / "saved")


@pytest.mark.parametrize("ending", ["txt", "md", "json", "csv", "jsonl", "jsonl.gz", "parquet", "arrow"])
def test_empty_file_is_an_error(ending, tmp_path):
    """Found by fuzzing: an empty document failed when slices were joined."""
    (tmp_path / f"rows.{ending}").write_bytes(b"")
    with pytest.raises(SftError, match=f"rows.{ending}"):
        rows(tmp_path / f"rows.{ending}")


def test_invalid_text_in_an_arrow_file_is_an_error(tmp_path):
    """Found by fuzzing: the file opens, but its bytes are not text."""
    table = pa.table({"text": ["plain text"]})
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    content = (tmp_path / "rows.arrow").read_bytes()
    (tmp_path / "rows.arrow").write_bytes(content.replace(b"plain text", b"plain\xff\xddtex"))
    with pytest.raises(SftError, match=r"rows\.arrow: cannot be read as Arrow"):
        rows(tmp_path / "rows.arrow")
