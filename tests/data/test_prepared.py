"""The prepared directory: examples are read as they were written."""

import subprocess
import sys

import numpy as np
import pytest

from sft_cli.config.schema.data import Order
from sft_cli.data import prepared_writer
from sft_cli.data.mixing import curriculum
from sft_cli.data.mixing.curriculum import Stage
from sft_cli.data.prepared import Split, open_prepared
from sft_cli.data.prepared_writer import BATCH, SplitWriter, example_table, write_dataset_dict
from sft_cli.errors import SftError
from sft_cli.types import Example

EXAMPLES = [
    Example((5, 6, 7, 8), (0.0, 0.0, 1.0, 1.0), "rows.jsonl:1", "a"),
    Example((9, 6), (0.0, 0.5), "rows.jsonl:2", "b"),
    Example((1, 2, 3), (0.0, 2.0, 0.0), "rows.jsonl:3", "a"),
]


def written(directory, train, weighted=False, validation=()):
    """Write these examples and open the directory."""
    directory.mkdir()
    for side, examples in (("train", train), ("validation", validation)):
        writer = SplitWriter(directory, side, weighted)
        for start in range(0, len(examples), 700):
            writer.write(example_table(examples[start : start + 700]))
        writer.close()
    write_dataset_dict(directory)
    curriculum.save_stages([Stage("1", Order.random, np.arange(len(train)))], directory)
    (directory / "manifest.json").write_text('{"fingerprint": "f", "content": "c", "inputs": {}}')
    return open_prepared(directory)


@pytest.mark.parametrize("weighted", [False, True])
def test_ids_and_weights_round_trip(tmp_path, weighted):
    result = written(tmp_path / "out", EXAMPLES, weighted)
    assert len(result.train) == 3
    assert result.train.lengths.tolist() == [4, 2, 3]
    assert result.train.sources == ["a", "b", "a"]
    assert [result.train.where(i) for i in range(3)] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert result.train.largest_id() == 9
    for i, example in enumerate(EXAMPLES):
        tokens = result.train.tokens(i)
        assert (tokens.input_ids.dtype, tokens.weights.dtype) == (np.int64, np.float32)
        assert tokens.input_ids.tolist() == list(example.input_ids)
        expected = example.weights if weighted else [float(weight > 0) for weight in example.weights]
        assert tokens.weights.tolist() == list(expected)


def test_labels_follow_the_hugging_face_convention(tmp_path):
    from datasets import load_from_disk

    written(tmp_path / "out", EXAMPLES)
    rows = load_from_disk(str(tmp_path / "out"))["train"]
    assert rows["labels"][:] == [[-100, -100, 7, 8], [-100, 6], [-100, 2, -100]]


def test_more_examples_than_one_batch(tmp_path):
    many = [Example((i, i + 1), (0.0, 1.0), f"rows.jsonl:{i + 1}", "a") for i in range(2 * BATCH + 3)]
    result = written(tmp_path / "out", many)
    assert len(result.train) == len(many)
    assert result.train.where(2 * BATCH) == f"rows.jsonl:{2 * BATCH + 1}"
    assert result.train.largest_id() == len(many)


def test_large_split_has_several_files(tmp_path, monkeypatch):
    from datasets import load_from_disk

    monkeypatch.setattr(prepared_writer, "SHARD_BYTES", 60_000)
    many = [Example((i, i + 1), (0.0, 1.0), f"rows.jsonl:{i + 1}", "a") for i in range(3500)]
    result = written(tmp_path / "out", many)
    files = sorted(file.name for file in (tmp_path / "out" / "train").glob("*.arrow"))
    assert files == [f"data-{number:05}-of-00003.arrow" for number in range(3)]
    assert [result.train.where(i) for i in range(3500)] == [example.where for example in many]
    rows = load_from_disk(str(tmp_path / "out"))["train"]
    assert rows["input_ids"][:] == [list(example.input_ids) for example in many]
    assert [file.name for file in (tmp_path / "out" / "validation").glob("*.arrow")] == ["data-00000-of-00001.arrow"]


def test_datasets_cache_of_another_split_is_not_used(tmp_path):
    """``datasets`` names cached results of ``map`` after the fingerprint."""
    from datasets import load_from_disk

    def fingerprint(name, examples):
        written(tmp_path / name, examples)
        return load_from_disk(str(tmp_path / name))["train"]._fingerprint

    assert fingerprint("one", EXAMPLES) == fingerprint("same", EXAMPLES) != fingerprint("other", EXAMPLES[:2])


def test_empty_split(tmp_path):
    result = written(tmp_path / "out", EXAMPLES)
    assert (len(result.validation), result.validation.largest_id()) == (0, -1)
    assert result.validation.lengths.tolist() == []


def test_index_out_of_range(tmp_path):
    result = written(tmp_path / "out", EXAMPLES)
    for index in (-1, 3):
        with pytest.raises(IndexError) as caught:
            result.train.tokens(index)
        assert str(caught.value) == f"there is no example {index} of 3"


def test_read_rows_are_independent_copies(tmp_path):
    """The files are memory-mapped; changes to an example must not affect other readers."""
    result = written(tmp_path / "out", EXAMPLES, weighted=True)
    first = result.train.tokens(0)
    first.input_ids[:] = 0
    first.weights[:] = 0
    assert result.train.tokens(0).input_ids.tolist() == [5, 6, 7, 8]
    assert result.train.tokens(0).weights.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_saved_again_by_datasets_in_several_files(tmp_path, weighted):
    from datasets import load_from_disk

    many = [Example((i, i + 1, 7)[: 1 + i % 3], (0.0, 2.0, 0.5)[: 1 + i % 3], f"r:{i}", "ab"[i % 2]) for i in range(50)]
    result = written(tmp_path / "out", many, weighted)
    rows = load_from_disk(str(tmp_path / "out" / "train"))
    chosen = [*range(40, 50), 3, *range(20)]
    rows.select(chosen).save_to_disk(str(tmp_path / "again"), num_shards=3)
    again = Split(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.arrow"))) == 3
    assert again.lengths.tolist() == [len(many[i].input_ids) for i in chosen]
    assert again.sources == [many[i].source for i in chosen]
    assert [again.where(place) for place in range(31)] == [many[i].where for i in chosen]
    for place, i in enumerate(chosen):
        one, same = again.tokens(place), result.train.tokens(i)
        assert one.input_ids.tolist() == same.input_ids.tolist() == list(many[i].input_ids)
        assert one.weights.tolist() == same.weights.tolist()


def test_examples_are_read_without_datasets(tmp_path):
    """Importing ``datasets`` takes a second, which would delay training."""
    written(tmp_path / "out", EXAMPLES)
    code = (
        "import sys; from pathlib import Path; from sft_cli.data.prepared import open_prepared\n"
        f"made = open_prepared(Path({str(tmp_path / 'out')!r}))\n"
        "made.train.tokens(2), made.train.sources, made.train.where(1), made.train.largest_id()\n"
        "sys.exit('datasets' in sys.modules or 'pandas' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        pytest.param(lambda d: (d / "state.json").unlink(), "No such file or directory", id="no-state"),
        pytest.param(lambda d: next(d.glob("*.arrow")).unlink(), "Failed to open local file", id="no-rows"),
        pytest.param(lambda d: next(d.glob("*.arrow")).write_bytes(b"x" * 99), "", id="other-bytes"),
        pytest.param(lambda d: (d / "state.json").write_text("{}"), "'_data_files'", id="another-state"),
    ],
)
def test_unreadable_examples_are_reported(tmp_path, break_it, problem):
    written(tmp_path / "out", EXAMPLES)
    break_it(tmp_path / "out" / "train")
    with pytest.raises(SftError) as caught:
        open_prepared(tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'out' / 'train'}: the examples cannot be read (")
    assert problem in caught.value.problem
    assert str(caught.value).endswith(
        f"\n  fix: move it away, and sft prepare creates it again: mv {tmp_path}/out {tmp_path}/out.damaged"
    )


def test_later_answers_of_an_unrolled_row_count_as_context(tmp_path):
    """One row as three examples, across written tables of 700 rows, and a document cut into pieces."""
    begin = tuple(range(10))
    single = [Example((i % 50, 1, 2, 3, 4, 5, 6, 7, 8, 9), (0.0,) * 9 + (1.0,), f"a:{i}", "a") for i in range(699)]
    answers = [Example((*begin, 50 + i), (0.0,) * 10 + (1.0,), "a:699", "a") for i in range(3)]
    pieces = [Example((*range(i, i + 9), 1), (0.0,) * 9 + (1.0,), "a:700", "a") for i in range(3)]

    unrolled = written(tmp_path / "d", [*single, *answers, *pieces]).train.unrolled()

    assert np.flatnonzero(unrolled).tolist() == [700, 701]
