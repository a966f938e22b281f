"""A run on a user's rows without settings: steps, held-out rows and messages."""

import json
import shutil

import pytest

from sft_cli.config.compose import read_config
from sft_cli.errors import SftError

AUTO = ("trainer.examples_per_step=auto", "trainer.epochs=auto", "data.val_fraction=auto")


@pytest.fixture
def more_rows(runs, tmp_path):
    """Settings with another source of 48 rows."""
    lines = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(48)]
    file = tmp_path / "rows48.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [f"data.mix.local.path={file}", *AUTO]


def test_automatic_values_are_recorded_and_kept_on_resume(runs, more_rows, capsys):
    done = runs.start("r", *more_rows, "trainer.max_steps=2", "trainer.save_every=1")
    output = capsys.readouterr().out
    trainer = read_config(done.config).trainer
    assert (trainer.examples_per_step, trainer.epochs) == (4, 3)
    assert (
        "plan      2 steps: 3 epochs of 40 examples, 4 a step, ended by trainer.max_steps"
        " (chosen by size; trainer.epochs=N trainer.examples_per_step=N sets them)\n" in output
    )
    assert "warning: 2 steps in all: the model will change little; remove trainer.max_steps," in output
    assert f"next      sft chat {done.path}\n          sft eval {done.path} --compare base\n" in output
    shutil.rmtree(done.adapter)
    runs.resume("r")
    output = capsys.readouterr().out
    assert "plan      2 steps: 3 epochs of 40 examples, 4 a step, ended by trainer.max_steps\n" in output


def test_without_held_out_rows_no_evaluation_is_advised(runs, capsys):
    done = runs.start("r", *AUTO, "trainer.max_steps=1")
    output = capsys.readouterr().out
    assert done.read_json(done.manifest)["splits"]["validation"]["examples"] == 0
    assert "warning: no rows are held out, fewer than 40 rows: overfitting will not be visible" in output
    assert f"next      sft chat {done.path}\n          sft merge {done.path} --out " in output
    assert "sft eval" not in output


def test_patience_is_refused_without_held_out_rows(runs):
    with pytest.raises(SftError) as refused:
        runs.start("r", *AUTO, "trainer.patience=3")
    assert str(refused.value) == (
        "trainer.patience=3: it needs held-out rows, and of 24 rows none are held out by default\n"
        "  fix: data.val_fraction=0.1, or data.mix.NAME.validation_path=FILE"
    )
    assert not (runs.directory / "r").exists()
