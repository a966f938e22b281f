"""Stages as lists of examples: expanded, sorted, saved and loaded."""

import numpy as np
import pytest
from mix_pools import pool

from sft_cli.config.schema.data import DataConfig, Order, SourceConfig, StageConfig
from sft_cli.data.mixing.curriculum import Stage, build_stages, load_stages, save_stages
from sft_cli.data.mixing.epoch_draw import Pool, draw_epoch
from sft_cli.errors import SftError

STARTS = np.array([0, 1, 3, 4, 5, 6])
"""Rows a0 to a2 and b0, b1; a1 is unrolled into two examples."""
LENGTHS = np.array([50, 10, 40, 30, 20, 30])


def made(stages: list[StageConfig], scores=None, weight=1.0) -> list[list[int]]:
    """Return the entries of stages over three rows of a and two of b."""
    data = DataConfig(mix={"a": SourceConfig(weight=weight), "b": SourceConfig()}, stages=stages)
    rows = [pool("a", data.mix["a"], [1, 1, 1]), pool("b", data.mix["b"], [1, 1])]
    scores = [{}, {}] if scores is None else scores
    scored = [Pool(p.name, p.source, p.keys, p.trained_tokens, p.lengths, s) for p, s in zip(rows, scores, strict=True)]
    return [stage.entries.tolist() for stage in build_stages(draw_epoch(data, scored, 0), scored, STARTS, LENGTHS, 0)]


def whole(num_examples: int) -> Stage:
    """Return an epoch with every example once."""
    return Stage("1", Order.random, np.arange(num_examples))


def test_build_stages_without_stages_keeps_row_order():
    assert made([]) == [[0, 1, 2, 3, 4, 5]]
    assert made([], weight=2.0) == [[0, 0, 1, 2, 1, 2, 3, 3, 4, 5]]


def test_by_length_is_ascending_over_single_examples():
    (entries,) = made([StageConfig(order=Order.by_length)])
    assert LENGTHS[entries].tolist() == [10, 20, 30, 30, 40, 50]


def test_by_difficulty_is_ascending_over_rows():
    scores = [{"hard": np.array([3.0, 1.0, 2.0])}, {"hard": np.array([2.5, 0.5])}]
    assert made([StageConfig(order=Order.by_difficulty, difficulty="hard")], scores) == [[5, 1, 2, 3, 4, 0]]


def test_ties_are_ordered_by_content_not_by_position():
    data = DataConfig(mix={"a": SourceConfig()}, stages=[StageConfig(order=Order.by_length)])
    starts, lengths = np.arange(101), np.full(100, 7)
    orders = []
    for contents in (range(100), reversed(range(100))):
        contents = list(contents)
        one = pool("a", data.mix["a"], [1] * 100, contents)
        (stage,) = build_stages(draw_epoch(data, [one], 0), [one], starts, lengths, 0)
        orders.append([contents[entry] for entry in stage.entries])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(100)) != orders[0]


def test_build_stages_refuses_a_row_without_score():
    scores = [{"hard": np.array([3.0, np.nan, 2.0])}, {}]
    stages = [StageConfig(name="hard last", order=Order.by_difficulty, difficulty="hard")]
    with pytest.raises(SftError) as caught:
        made(stages, scores)
    assert str(caught.value) == (
        "data.stages, stage hard last: 1 of the 3 rows of the stage from a have no score 'hard', which orders it\n"
        "  fix: set the column of the score: data.mix.a.scores.hard=COLUMN"
    )


def test_row_outside_the_stage_needs_no_score():
    scores = [{"hard": np.array([3.0, 1.0, 2.0])}, {}]
    stages = [
        StageConfig(mix={"a": 1.0}, share=3.0, order=Order.by_difficulty, difficulty="hard"),
        StageConfig(mix={"b": 1.0}, share=2.0),
    ]
    assert made(stages, scores) == [[1, 2, 3, 0], [4, 5]]


def test_stages_round_trip(tmp_path):
    stages = [
        whole(4),
        Stage("hard last", Order.by_difficulty, np.array([3, 3, 0])),
        Stage("none", Order.random, np.array([], np.int64)),
    ]
    save_stages(stages, tmp_path)
    again = load_stages(tmp_path, 4)
    assert [(s.name, s.order, s.entries.tolist()) for s in again] == [
        (s.name, s.order, s.entries.tolist()) for s in stages
    ]
    assert sorted(file.name for file in (tmp_path / "stages").iterdir()) == ["0.npy", "1.npy", "2.npy", "index.json"]


def broken(directory, num_examples=4) -> str:
    with pytest.raises(SftError) as caught:
        load_stages(directory, num_examples)
    assert caught.value.fix.startswith("move it away, and sft prepare creates it again: mv ")
    return f"{caught.value.where.removeprefix(str(directory))}: {caught.value.problem}"


def test_stages_of_other_rows_are_refused(tmp_path):
    save_stages([whole(4)], tmp_path)
    assert broken(tmp_path, 3) == "/stages/0.npy: the file names examples beyond the last of 3"


def test_damaged_stages_are_refused(tmp_path):
    assert broken(tmp_path).startswith("/stages: the stages cannot be read (")
    save_stages([whole(4)], tmp_path)
    np.save(tmp_path / "stages/0.npy", np.arange(3))
    assert broken(tmp_path) == "/stages/0.npy: the file does not hold 4 numbers of examples"
    np.save(tmp_path / "stages/0.npy", np.arange(4.0))
    assert broken(tmp_path) == "/stages/0.npy: the file does not hold 4 numbers of examples"
    (tmp_path / "stages/0.npy").write_bytes(b"\x93NUMPY")
    assert broken(tmp_path).startswith("/stages: the stages cannot be read (")
    (tmp_path / "stages/index.json").write_text('[{"name": "1"}]')
    assert broken(tmp_path) == "/stages: the stages cannot be read ('order')"
