"""`sft train` with launcher=slurm trains inside a job alone; on a login node it names what submits."""

import pytest

from sft_cli.errors import SftError
from sft_cli.train.run import train_command

PROBLEM = "launcher=slurm trains in a SLURM job, and this shell is in none"


def refusal(words: list[str], config_dirs: tuple[str, ...] = ()) -> SftError:
    with pytest.raises(SftError) as caught:
        train_command(words, list(config_dirs))
    return caught.value


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """The shell of a login node, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def test_a_new_run_is_submitted_with_the_same_words(shell):
    (shell / "own").mkdir()
    words = ["recipe=quickstart", "launcher=slurm", "data.mix.more.path=my rows.jsonl"]
    error = refusal(words, ("own",))
    assert (error.where, error.problem) == ("launcher", PROBLEM)
    assert error.fix == (
        "submit it: python -m sft_cli.slurm recipe=quickstart launcher=slurm 'data.mix.more.path=my rows.jsonl' -d own"
    )
    assert list(shell.iterdir()) == [shell / "own"]


def test_so_is_one_whose_recipe_chooses_slurm(shell):
    (shell / "mine.yaml").write_text("launcher: slurm\n")
    assert refusal(["recipe=mine.yaml"]).fix == "submit it: python -m sft_cli.slurm recipe=mine.yaml"


def test_a_run_is_submitted_again_with_its_job_or_trained_here(shell):
    run = shell / "run"
    run.mkdir()
    (run / "config.yaml").write_text("launcher: {kind: slurm}\n")
    assert refusal(["run=run"]).fix == "to train in this shell: sft train run=run launcher=local"
    assert refusal(["run=run", "launcher=local"]).problem == "no model is named"
    (run / "job.sbatch").write_text("#!/bin/bash\n")
    assert refusal(["run=run"]).fix == "submit it: sbatch run/job.sbatch"


def test_inside_a_job_it_trains(shell, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert refusal(["launcher=slurm"]).problem == "no model is named"
