"""``sft stop``: a running run saves and stops, or ends early; a stopped run can be ended with what it has."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train import loop
from sft_cli.train.run_list import summarize_run


@pytest.fixture
def during_step(monkeypatch):
    """Call a function while a step, counted from 1, is computed."""

    def arrange(step: int, act) -> None:
        original = loop.train_step

        def wrapped(context, state, number, batches):
            if number == step - 1:
                act()
            return original(context, state, number, batches)

        monkeypatch.setattr(loop, "train_step", wrapped)

    return arrange


def weights(run: RunDir, directory: str) -> dict[str, torch.Tensor]:
    (file,) = (run.path / directory).glob("adapter_model.safetensors")
    return load_file(file)


@pytest.mark.every_change
def test_stop_saves_the_step_and_the_run_resumes_to_the_same_weights(runs, during_step, metrics, capsys):
    straight = runs.start("straight")
    path = runs.directory / "r"
    during_step(3, lambda: execute(["stop", str(path), "--no-wait"]))
    with pytest.raises(SystemExit) as stopped:
        runs.start("r")

    assert stopped.value.code == 128 + signal.SIGINT
    run = RunDir(path)
    assert len(metrics(run)) == 3
    assert not run.stop_request.exists()
    output = capsys.readouterr().out
    assert "finishes its step, saves and stops" in output
    assert f"stopped   after step 3, saved; resume with: sft train --resume {path}" in output
    assert f"sft stop {path} --export" in output
    assert summarize_run(run).state == "interrupted"
    assert f"report    {run.report}" in output
    assert "interrupted, step 3 of 8" in run.report.read_text()
    resumed = runs.resume("r")
    assert "finished, step 8 of 8" in resumed.report.read_text()
    assert all(
        torch.equal(weights(resumed, "adapter")[key], value) for key, value in weights(straight, "adapter").items()
    )


@pytest.mark.every_change
@pytest.mark.parametrize("way", ["command", "signal"])
def test_finishing_now_evaluates_and_exports_the_step(runs, during_step, metrics, capsys, way):
    path = runs.directory / "r"
    ask = {
        "command": lambda: execute(["stop", str(path), "--export", "--no-wait"]),
        "signal": lambda: signal.raise_signal(signal.SIGQUIT),
    }
    during_step(3, ask[way])
    run = runs.start("r", "trainer.eval_every=100")

    assert [line["step"] for line in metrics(run, eval=True)] == [3]
    assert run.read_json(run.end) == {
        "step": 3, "planned_steps": 8, "exported_step": 3, "reason": "finished early"
    }  # fmt: skip
    assert summarize_run(run).state == "finished early"
    assert not run.stop_request.exists()
    assert "finished  3 steps of 8 (early)" in capsys.readouterr().out
    execute(["runs", str(runs.directory)])
    assert "finished early" in capsys.readouterr().out


def test_a_stopped_run_is_ended_with_its_best_weights_and_can_go_on(runs, stop_during_step, metrics, capsys):
    straight = runs.start("straight")
    stop_during_step(3)
    with pytest.raises(SystemExit):
        runs.start("r", "trainer.eval_every=2")
    run = RunDir(runs.directory / "r")

    execute(["stop", str(run.path), "--export"])

    assert "finished  early after step 3 of 8" in capsys.readouterr().out
    assert run.read_json(run.end)["exported_step"] == 2
    saved = weights(run, "checkpoints/step-2")
    assert all(torch.equal(saved[key], value) for key, value in weights(run, "adapter").items())
    runs.resume("r")
    assert (
        f"sft train --resume {run.path} trainer.epochs=2  # trains the remaining steps, to 8" in capsys.readouterr().out
    )
    runs.resume("r", "trainer.epochs=2", "trainer.eval_every=null")
    assert len(metrics(run)) == 8
    assert run.read_json(run.end)["reason"] == "completed"
    assert all(torch.equal(weights(run, "adapter")[key], value) for key, value in weights(straight, "adapter").items())


def test_a_run_that_is_not_running_is_one_sentence(runs, stop_during_step):
    stop_during_step(3)
    with pytest.raises(SystemExit):
        runs.start("r")
    path = runs.directory / "r"
    with pytest.raises(SftError) as stopped:
        execute(["stop", str(path)])
    assert str(stopped.value) == (
        f"{path}: the run is not running: it stopped after step 3\n"
        f"  fix: sft train --resume {path}\n   or: sft stop {path} --export"
    )
    runs.resume("r")
    for words in ([], ["--export"]):
        with pytest.raises(SftError) as finished:
            execute(["stop", str(path), *words])
        assert str(finished.value) == f"{path}: the run is not running: it is finished\n  fix: sft chat {path}"


def test_a_request_of_an_earlier_session_is_removed(runs, stop_during_step, metrics):
    stop_during_step(3)
    with pytest.raises(SystemExit):
        runs.start("r")
    run = RunDir(runs.directory / "r")
    run.stop_request.write_text(json.dumps({"request": "finish"}))
    runs.resume("r")
    assert len(metrics(run)) == 8
