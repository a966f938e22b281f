"""Directories as sources: splits, saved data sets, and which files are data."""

import json

import pytest
from datasets import Dataset, DatasetDict

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources.source_rows import source_slices as slices_of
from sft_cli.errors import SftError
from tests.data.helpers import message, places, through_slices, write

pytestmark = pytest.mark.usefixtures("in_an_empty_directory")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.md", "licences.jsonl"])
def test_notes_in_a_directory_are_not_data(tmp_path, name):
    for file in ("README.md", "LICENSE.txt", ".hidden.jsonl", name):
        (tmp_path / file).write_text(json.dumps({"a": file}))
    assert [where for piece in through_slices(".") for where, _ in piece] == [f"{name}:1"]
    assert [where for piece in through_slices("README.md") for where, _ in piece] == ["README.md:1"]


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        pytest.param(
            ("rows.jsonl", "README.md"),
            "*",
            "data.mix.mine.path: '*' matches data files and documents, such as 'README.md'\n"
            "  fix: name one of the two, as in 'data.mix.mine.path=*.jsonl'",
            id="glob",
        ),
        pytest.param(
            ("a.txt", "b.md"),
            "d",
            "data.mix.mine.path: 'd' holds several kinds of files: .md, .txt\n"
            "  fix: name those to read, as in 'data.mix.mine.path=d/*.md'",
            id="two-kinds-of-documents",
        ),
        pytest.param(
            ("a.txt", "b.jsonl"),
            "d",
            "data.mix.mine.path: 'd' holds several kinds of files: .jsonl, .txt\n"
            "  fix: name those to read, as in 'data.mix.mine.path=d/*.jsonl'",
            id="rows-and-a-document",
        ),
        pytest.param(
            ("README.md", "rows.xlsx"),
            "d",
            "data.mix.mine.path: 'd' holds no data file\n"
            "  fix: data.mix.mine.path=FILE with one of the suffixes .json, .jsonl, .ndjson, .csv, .tsv,"
            " .parquet, .arrow, .txt, .md;"
            " all but .parquet and .arrow also with .gz, .zst, .bz2 or .xz",
            id="only-a-readme",
        ),
    ],
)
def test_files_mixed_with_documents(tmp_path, names, path, message):
    folder = tmp_path / ("d" if path == "d" else ".")
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x")
    with pytest.raises(SftError) as caught:
        slices_of(SourceConfig(path=path), "mine", "train")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("names", "path"),
    [
        pytest.param(("d/train.jsonl", "d/test.jsonl"), "d", id="files"),
        pytest.param(("d/train/0.jsonl", "d/test/0.jsonl"), "d", id="folders"),
        pytest.param(("d/data/train-00000-of-00001.jsonl", "d/data/test-00000-of-00001.jsonl"), "d", id="shards"),
    ],
)
def test_directory_of_splits(tmp_path, names, path):
    """Held-out rows in the directory of the training rows are never trained on."""
    write(tmp_path, *names)
    assert list(places(path=path).values()) == [names[0]]
    assert list(places("validation", path=path, validation_split="test").values()) == [names[1]]


def test_split_with_another_name(tmp_path):
    write(
        tmp_path, "d/train_sft-00000-of-00002.jsonl", "d/train_sft-00001-of-00002.jsonl", "d/test-00000-of-00001.jsonl"
    )
    assert len(places(path="d", split="train_sft")) == 2


def test_saved_data_sets(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b", "c"]})
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    DatasetDict(train=rows, test=rows.select([2])).save_to_disk(tmp_path / "several")
    assert places(path="one") == {"one:1": "a", "one:2": "b", "one:3": "c"}
    assert places(path="several/") == {"several[train]:1": "a", "several[train]:2": "b", "several[train]:3": "c"}
    assert places("validation", path="several", validation_split="test") == {"several[test]:1": "c"}
    assert places(path="o*e") == places(path="one")


def test_split_of_a_single_saved_data_set_is_refused(tmp_path):
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "one")
    assert message("validation", path="one", validation_split="test") == (
        "data.mix.mine.validation_split: split 'test' is set, but 'one' has no splits\n"
        "  fix: remove data.mix.mine.split, or data.mix.mine.validation_path=FILE for held-out rows"
    )


def test_folder_with_another_state_file_is_not_a_saved_data_set(tmp_path):
    write(tmp_path, "d/rows.jsonl", "d/state.json")
    assert message(path="d").startswith("data.mix.mine.path: 'd' holds several kinds of files: .json, .jsonl")
