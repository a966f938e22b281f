"""Non-finite losses, loss spikes and exhausted memory: the errors name the rows, and no file is damaged."""

import json
import signal

import pytest
from faults_runs import digests, steps, words

from sft_cli.run_dir import RunDir

pytestmark = pytest.mark.slow
SPOIL = """
from sft_cli.train import step
real, first = step.accumulate_gradients, []
def spoilt(loss_model, accelerator, laid, *others):
    terms = real(loss_model, accelerator, laid, *others)
    first.append(1)
    if len(first) == {call}:
        for parameter in loss_model.parameters():
            if parameter.grad is not None:
                parameter.grad *= {factor}
        terms["loss"] = terms["loss"] * {factor}
    return terms
step.accumulate_gradients = spoilt
"""
"""Python code that multiplies the gradient and loss of one step, as a bad row would change them."""
SHORT = """
import torch
from sft_cli.train import step
real, calls = step.accumulate_gradients, []
def short(*arguments):
    calls.append(1)
    if len(calls) >= 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return real(*arguments)
step.accumulate_gradients = short
"""


def spikes(run):
    return [json.loads(line) for line in run.spikes.read_text().splitlines()]


def test_diverging_loss_stops_the_run_with_valid_checkpoints(sft, ledger, tmp_path):
    """With a learning rate of 1e20 the second step's loss overflows; no checkpoint contains non-finite values."""
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", "lr=1e20, on_nan=stop"):
        ended = sft(*words(run.path, "trainer.lr=1e20", "trainer.max_grad_norm=0")).wait()
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
        (line,) = spikes(run)
        assert line["loss"] is None or line["grad_norm"] is None
        assert len(line["rows"]) == 8
        tokens = [row["tokens"] for row in line["rows"]]
        assert tokens == sorted(tokens, reverse=True)
        assert f"error: step {line['step']}: training diverged: loss " in ended.err
        assert f"computed from {line['rows'][0]['where']} ({tokens[0]} tokens), " in ended.err
        assert "and 5 more\n" in ended.err
        assert f"sft train --resume {run.path} trainer.on_nan=skip" in ended.err
        assert not run.adapter.exists()


def test_run_stops_after_too_many_skipped_steps(sft, ledger, tmp_path):
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", "lr=1e20, on_nan=skip"):
        line = words(run.path, "trainer.lr=1e20", "trainer.max_grad_norm=0", "trainer.on_nan=skip")
        ended = sft(*line, "trainer.max_steps=20").wait()
        assert ended.code == 2, ended
        assert "10 steps in a row were skipped" in ended.err
        assert sum(line["skipped"] for line in spikes(run)) == 10


def test_non_finite_step_stops_the_run_or_is_skipped(sft, straight, ledger, tmp_path):
    """The run stops after step 5; resumed with on_nan=skip, it skips step 5 and keeps the weights of step 4."""
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", "one step, on_nan=stop") as fault:
        ended = sft(*words(run.path), before=SPOIL.format(call=5, factor="float('nan')")).wait()
        assert ended.code == 2, ended
        assert "error: step 5: training diverged: loss nan, gradient norm nan, computed from " in ended.err
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-3"]
        fault.repeated = 2
    with ledger.fault("NaN or Inf", "one step, on_nan=skip"):
        line = [
            "train",
            "--resume",
            str(run.path),
            "trainer.on_nan=skip",
            "trainer.save_every=1",
            "trainer.keep_checkpoints=99",
        ]
        ended = sft(*line, before=SPOIL.format(call=2, factor="float('inf')")).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        assert "spike     step 5: loss inf, gradient norm " in ended.out
        before, after = (digests(run.checkpoints / name) for name in ("step-4", "step-5"))
        same = ("trained.safetensors", "optimizer.safetensors")
        assert [before[name] for name in same] == [after[name] for name in same]
        assert before["state.json"] != after["state.json"]
        assert [step["loss"] is None for step in steps(run)] == [number == 5 for number in range(1, 13)]
        assert steps(run)[:4] == steps(straight)[:4]
        assert [step["lr"] for step in steps(run)] == [step["lr"] for step in steps(straight)]
        (line,) = spikes(run)
        assert (line["step"], line["skipped"], len(line["rows"])) == (5, True, 8)


def test_first_step_can_be_skipped(sft, ledger, tmp_path):
    """torch would warn about a schedule that is stepped before its optimizer."""
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", "the first step, on_nan=skip"):
        line = words(run.path, "trainer.on_nan=skip", "trainer.max_steps=3")
        ended = sft(*line, before=SPOIL.format(call=1, factor="float('nan')")).wait()
        assert (ended.code, ended.err) == (0, ""), ended


def test_loss_spike_is_recorded_once_even_after_a_kill(sft, ledger, tmp_path):
    run, killed = RunDir(tmp_path / "run"), RunDir(tmp_path / "killed")
    with ledger.fault("loss spike", "recorded, killed and resumed") as fault:
        ended = sft(*words(run.path), before=SPOIL.format(call=11, factor="50")).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        (line,) = spikes(run)
        assert (line["step"], line["skipped"], len(line["rows"])) == (11, False, 8)
        assert line["loss"] > 4 * line["median"]
        assert f"spike     step 11: loss {line['loss']:.4g}, " in ended.out
        command = sft(*words(killed.path), before=SPOIL.format(call=11, factor="50"))
        assert command.until(lambda: len(steps(killed)) >= 11)
        command.send(signal.SIGKILL)
        command.wait()
        before = len(steps(killed))
        ended = sft("train", "--resume", str(killed.path), before=SPOIL.format(call=2, factor="50")).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        fault.repeated = before - 9 if "after step 9" in ended.out else before - 12
        assert spikes(killed) == spikes(run)
        assert steps(killed) == steps(run)


def test_out_of_memory_error_names_rows_and_setting(sft, ledger, tmp_path):
    run = RunDir(tmp_path / "run")
    with ledger.fault("out of memory", "on the device, in a step"):
        ended = sft(
            *words(run.path, "speed.gradient_checkpointing=none", "speed.tokens_per_micro_batch=4096"), before=SHORT
        ).wait()
        assert ended.code == 2, ended
        error, fix = ended.err.splitlines()
        assert error.startswith("error: step 4: out of memory in training with 4,096 tokens per micro-batch; ")
        assert "the longest rows of the step: " in error
        assert " tokens), " in error
        assert "speed.tokens_per_micro_batch=2048" in fix
        assert "speed.gradient_checkpointing=auto" in fix
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-3"]
