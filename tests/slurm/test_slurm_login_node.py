"""``sft train`` with launcher=slurm outside a job suggests submitting it."""

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError

PROBLEM = "launcher=slurm trains in a SLURM job, and this shell is not in one"


def refusal(words: list[str], config_dirs: tuple[str, ...] = ()) -> SftError:
    with pytest.raises(SftError) as caught:
        execute(["train", *words, *(word for one in config_dirs for word in ("-d", one))])
    return caught.value


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Set up the shell of a login node, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def test_new_run_suggests_submit_with_the_same_words(shell):
    (shell / "own").mkdir()
    words = ["recipe=quickstart", "launcher=slurm", "data.mix.more.path=my rows.jsonl"]
    error = refusal(words, ("own",))
    assert (error.where, error.problem) == ("launcher", PROBLEM)
    assert error.fix == (
        "submit it: sft submit recipe=quickstart launcher=slurm 'data.mix.more.path=my rows.jsonl' -d own"
    )
    assert list(shell.iterdir()) == [shell / "own"]


def test_recipe_with_slurm_is_refused_on_a_login_node(shell):
    (shell / "mine.yaml").write_text("launcher: slurm\n")
    assert refusal(["recipe=mine.yaml"]).fix == "submit it: sft submit recipe=mine.yaml"


def test_resuming_on_a_login_node_suggests_sbatch_or_local_training(shell):
    run = shell / "run"
    run.mkdir()
    (run / "config.yaml").write_text("launcher: {kind: slurm}\n")
    assert refusal(["--resume", "run"]).fix == "to train in this shell: sft train --resume run launcher=local"
    assert refusal(["--resume", "run", "launcher=local"]).problem == "no model is named"
    (run / "job.sbatch").write_text("#!/bin/bash\n")
    assert refusal(["--resume", "run"]).fix == "submit it: sbatch run/job.sbatch"


def test_train_runs_inside_a_job(shell, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert refusal(["launcher=slurm"]).problem == "no model is named"
