"""`sft eval RUN --checkpoints`: every saved step is evaluated once, and one table shows all."""

from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.eval.checkpoints import CheckpointFile, CheckpointScores, checkpoint_table


@pytest.fixture
def run(tmp_path) -> Path:
    """Return a run directory with nothing in it."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.yaml").write_text("{}")
    return tmp_path / "r"


def figure(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9, "clusters": 9}


def scores(step: int | None, loss: float | None, value: float, **fields) -> CheckpointScores:
    heldout = {} if loss is None else {"loss": loss}
    return CheckpointScores(step, "s", f"w{step}", heldout, {"cities": {"exact": figure(value)}}, **fields)


def test_the_table_marks_the_lowest_loss_and_the_highest_score_of_the_steps():
    columns, rows = checkpoint_table([scores(None, 0.5, 0.9), scores(10, 2.0, 0.25), scores(20, 1.5, 0.5)])
    assert columns == ["step", "held-out loss", "cities.exact"]
    assert rows == [
        ["base", "0.5000", "0.9 (0.8 to 1)"],
        ["10", "2.0000", "0.25 (0.15 to 0.35)"],
        ["20", "1.5000 *", "0.5 (0.4 to 0.6) *"],
    ]
    columns, rows = checkpoint_table([scores(10, None, 0.25)])
    assert columns == ["step", "cities.exact"]
    assert rows == [["10", "0.25 (0.15 to 0.35)"]]


def test_the_file_keeps_scores_of_other_settings_and_finds_only_complete_ones(tmp_path):
    file = CheckpointFile(tmp_path / "checkpoints.json")
    file.add(scores(20, 1.0, 0.5))
    file.add(scores(10, 2.0, 0.5, complete=False))
    again = CheckpointFile(tmp_path / "checkpoints.json")
    assert [one.step for one in again.rows("s", [10, 20], with_base=True)] == [10, 20]
    assert again.find(20, "s", "w20") == scores(20, 1.0, 0.5)
    assert again.find(10, "s", "w10") is None
    assert again.find(20, "other", "w20") is None
    assert again.find(20, "s", "other") is None
    again.add(scores(10, 3.0, 0.5))
    assert [one.heldout["loss"] for one in again.rows("s", [10, 20], with_base=True)] == [3.0, 1.0]
    again.file.write_text("{")
    with pytest.raises(SftError, match="damaged"):
        CheckpointFile(again.file)


def test_a_run_without_checkpoints_is_refused(run):
    with pytest.raises(SftError, match="the run has no checkpoints\n  fix: evaluate its result: sft eval "):
        execute(["eval", str(run), "--checkpoints", "all"])


def test_wrong_steps_are_refused(run):
    (run / "checkpoints/step-4").mkdir(parents=True)
    for words, problem in {
        ("some",): "it is neither all nor a list of steps\n  fix: --checkpoints all, or --checkpoints 4",
        ("4,5",): "the run has no checkpoint of step 5\n  fix: --checkpoints 4",
        ("4", "--step", "4"): "it cannot be combined with --step 4",
        ("4", "--rescore"): "it cannot be combined with --rescore",
        ("all",): "all checkpoints are damaged\n  fix: write them again: sft train --resume",
    }.items():
        with pytest.raises(SftError) as error:
            execute(["eval", str(run), "--checkpoints", *words])
        assert problem in str(error.value)
    assert not (run / "eval").exists()
