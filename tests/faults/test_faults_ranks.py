"""Faults in a run of two processes: both end, one of them prints the error, and the run resumes normally."""

import json
import signal

import pytest
from faults_runs import SAVE_EVERY, digests, steps, whole, words
from test_faults_numbers import SPOIL

from sft_cli.run_dir import RunDir
from sft_cli.utils.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(sft):
    """Return a function that starts a command in two processes of one group."""

    def start(line, before=("", "")):
        shared = {
            "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        }  # fmt: skip
        return [sft(*line, before=before[rank], RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]

    return start


def test_killed_process_ends_the_other_and_the_run_resumes(pair, ledger, tmp_path):
    straight, run = RunDir(tmp_path / "straight"), RunDir(tmp_path / "run")
    assert [command.wait().code for command in pair(words(straight.path))] == [0, 0]
    for victim in (1, 0):
        line = ["train", "--resume", str(run.path)] if run.config.is_file() else words(run.path)
        before = len(steps(run))
        commands = pair(line)
        assert commands[0].until(lambda before=before: len(steps(run)) >= 4 and len(steps(run)) != before)
        with ledger.fault("SIGKILL", f"process {victim} of two") as fault:
            commands[victim].send(signal.SIGKILL)
            ended = [command.wait() for command in commands]
            assert ended[victim].code == -signal.SIGKILL
            other = ended[1 - victim]
            assert other.code not in (0, -signal.SIGKILL), other
            assert "Traceback" not in other.err
            saved = [int(path.name[5:]) for path in run.checkpoints.glob("step-*") if whole(path)]
            fault.repeated = len(steps(run)) - max(saved)
            assert fault.repeated <= SAVE_EVERY
    ended = [command.wait() for command in pair(["train", "--resume", str(run.path)])]
    assert [one.code for one in ended] == [0, 0], ended
    assert steps(run) == steps(straight)
    assert digests(run.adapter) == digests(straight.adapter)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_non_finite_step_in_one_process_is_skipped_by_both(pair, ledger, tmp_path, kind):
    """One process has the bad gradient; both see the sum, so both take the same decision."""
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", f"in one process of two ({kind}), on_nan=skip"):
        line = words(run.path, "trainer.on_nan=skip", "trainer.save_every=1", "trainer.keep_checkpoints=99")
        line.append(f"distributed={kind}")
        ended = [one.wait() for one in pair(line, ("", SPOIL.format(call=5, factor="float('nan')")))]
        assert [one.code for one in ended] == [0, 0], ended
        (spike,) = [json.loads(text) for text in run.spikes.read_text().splitlines()]
        assert (spike["step"], spike["skipped"], len(spike["rows"])) == (5, True, 8)
        before, after = (digests(run.checkpoints / name) for name in ("step-4", "step-5"))
        trained = [name for name in before if name.startswith("trained")]
        assert [before[name] for name in trained] == [after[name] for name in trained]
        assert len(trained) == (2 if kind == "fsdp" else 1)
        assert all(step["grad_norm"] is not None for step in steps(run) if step["step"] != 5)


def test_non_finite_step_is_reported_by_one_process(pair, ledger, tmp_path):
    run = RunDir(tmp_path / "run")
    with ledger.fault("NaN or Inf", "in one process of two, on_nan=stop"):
        ended = [one.wait() for one in pair(words(run.path), ("", SPOIL.format(call=5, factor="float('nan')")))]
        assert [one.code for one in ended] == [2, 2], ended
        assert ended[0].err.startswith("error: step 5: training diverged: ")
        assert ended[1].err == ""
