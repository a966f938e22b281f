"""What a run does with rows of somebody's own and no settings: its steps, what it holds out, and what it says of it."""

import json
import shutil

import pytest

from sft_cli.config.compose import read_config
from sft_cli.errors import SftError

AUTO = ("trainer.examples_per_step=auto", "trainer.epochs=auto", "data.val_fraction=auto")


@pytest.fixture
def more_rows(runs, tmp_path):
    """The runs with 48 rows of its own."""
    lines = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(48)]
    file = tmp_path / "rows48.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [f"data.mix.local.path={file}", *AUTO]


def test_numbers_that_are_chosen_are_recorded_and_a_resumed_run_keeps_them(runs, more_rows, capsys):
    done = runs.start("r", *more_rows, "trainer.max_steps=2", "trainer.save_every=1")
    said = capsys.readouterr().out
    trainer = read_config(done.config).trainer
    assert (trainer.examples_per_step, trainer.epochs) == (4, 3)
    assert (
        "plan      2 steps: 3 epochs of 40 examples, 4 a step, ended by trainer.max_steps"
        " (chosen by size; trainer.epochs=N trainer.examples_per_step=N sets them)\n" in said
    )
    assert "warning: 2 steps in all: the model will change little; leave trainer.max_steps out," in said
    assert f"next      sft chat {done.path}\n          sft eval {done.path} --compare base\n" in said
    shutil.rmtree(done.adapter)
    runs.resume("r")
    said = capsys.readouterr().out
    assert "plan      2 steps: 3 epochs of 40 examples, 4 a step, ended by trainer.max_steps\n" in said


def test_where_nothing_is_held_out_no_evaluation_of_it_is_advised(runs, capsys):
    done = runs.start("r", *AUTO, "trainer.max_steps=1")
    said = capsys.readouterr().out
    assert done.read_json(done.manifest)["splits"]["validation"]["examples"] == 0
    assert "warning: no rows are held out, fewer than 40 rows: overfitting will not be visible" in said
    assert f"next      sft chat {done.path}\n          sft merge {done.path} --out " in said
    assert "sft eval" not in said


def test_what_needs_held_out_rows_is_refused_where_the_rows_are_too_few_to_hold_any_out(runs):
    with pytest.raises(SftError) as refused:
        runs.start("r", *AUTO, "trainer.patience=3")
    assert str(refused.value) == (
        "trainer.patience=3: it needs held-out rows, and of 24 rows none are held out by default\n"
        "  fix: data.val_fraction=0.1, or data.mix.NAME.validation_path=FILE"
    )
    assert not (runs.directory / "r").exists()
