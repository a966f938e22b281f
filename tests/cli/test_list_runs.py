"""``sft runs``: runs with their state and progress."""

import fcntl
import json
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.run_list import list_runs, summarize_run


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    return tmp_path


def made(path, *lines: dict, finished: bool = False, torn: str = "") -> RunDir:
    """Write a run directory with these lines of metrics, and return it."""
    run = RunDir(path)
    run.path.mkdir(parents=True)
    run.config.write_text("run_name: a\n")
    if lines:
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    if finished:
        run.adapter.mkdir()
    return run


STEPS = ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "loss": 1.25, "eval": True})


def test_the_states_of_runs(home):
    finished = summarize_run(made(home / "runs/a", *STEPS, finished=True))
    assert (finished.state, finished.step, finished.loss, finished.held_out) == ("finished", 2, 1.5, 1.25)
    run = made(home / "runs/b", *STEPS[:2], torn='{"step": 3, "lo')
    assert (summarize_run(run).state, summarize_run(run).step, summarize_run(run).held_out) == ("interrupted", 2, None)
    assert summarize_run(made(home / "runs/c")).state == "new"
    with (run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert summarize_run(run).state == "running"
    assert summarize_run(run).state == "interrupted"
    null = made(home / "runs/d", {"step": 1, "loss": None})
    assert summarize_run(null).loss is None


def test_members_of_sweeps_are_listed_and_saved_steps_are_not(home):
    made(home / "runs/a", *STEPS)
    made(home / "runs/a/steps/step-1", *STEPS)
    made(home / "sweeps/s/001-lr=1", *STEPS)
    assert [one.path.name for one in list_runs()] == ["a"]
    assert {one.path.name for one in list_runs([home / "sweeps"])} == {"001-lr=1"}


def test_table_of_runs_is_on_stdout_and_the_hint_on_stderr(home, capsys):
    assert execute(["runs"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no runs yet; start with: sft train recipe=quickstart\n")
    made(home / "runs/a", *STEPS, finished=True)
    assert execute(["runs"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    row = next(line for line in captured.out.splitlines() if "runs/a" in line)
    assert row.split()[:4] == ["finished", "2", "1.5", "1.25"]


def test_runs_of_the_working_directory_are_listed(tmp_path, monkeypatch):
    """``run_dir=run1`` writes there; a config.yaml of another tool is no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    for name, files in (("run1", ("config.yaml", "environment.json")), ("other", ("config.yaml",))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    assert [one.path.name for one in list_runs()] == ["run1"]


def test_missing_folder_of_runs_is_refused():
    with pytest.raises(SftError, match="there is no such folder"):
        list_runs([Path("nosuch")])
