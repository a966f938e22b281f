"""Signals, two processes in one directory, and clocks that jump: the run stays complete and ends the same."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults_runs import SAVE_EVERY, lost_bytes, steps, unfinished, words

from sft_cli.run_dir import RunDir

pytestmark = pytest.mark.slow
SLOW = """
import time
from sft_cli.train import loop
take = loop.train_step
def slowly(*arguments):
    time.sleep(0.15)
    return take(*arguments)
loop.train_step = slowly
"""
JUMP = """
import time
from sft_cli.train import loop
real, take, taken = time.time, loop.train_step, []
def counted(*arguments):
    taken.append(1)
    return take(*arguments)
loop.train_step = counted
time.time = lambda: real() + ({jump} if len(taken) > 5 else 0)
"""
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


SLOW_SAVE = """
import time
from sft_cli.train.checkpoints import checkpoint
sync = checkpoint.fsync
def slowly(path):
    time.sleep(0.1)
    return sync(path)
checkpoint.fsync = slowly
"""


def resumed_as_straight(sft, run, straight, fault, before):
    """Resume a run and compare it with the undisturbed one."""
    ended = sft("train", "--resume", str(run.path)).wait()
    assert (ended.code, ended.err) == (0, ""), ended
    found = ended.out.partition("resume    after step ")[2].split()
    fault.repeated = before - int(found[0]) if found else before
    assert fault.repeated <= SAVE_EVERY
    assert steps(run) == steps(straight)
    fault.lost = lost_bytes(run, straight)
    assert fault.lost == 0
    assert unfinished(run) == []


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGTERM, "a step"),
        (signal.SIGINT, "a step"),
        (signal.SIGUSR1, "a step"),
        (signal.SIGTERM, "writing a checkpoint"),
    ],
)
def test_signal_saves_a_checkpoint_and_stops(sft, straight, ledger, tmp_path, number, when):
    run = RunDir(tmp_path / "run")
    command = sft(*words(run.path), before=SLOW if when == "a step" else SLOW_SAVE)
    at = (lambda: len(steps(run)) >= 4) if when == "a step" else (lambda: any(run.checkpoints.glob(".*.tmp")))
    assert command.until(at)
    with ledger.fault(number.name, when) as fault:
        command.send(number)
        ended = command.wait()
        assert (ended.code, ended.err) == (128 + number, "")
        before = len(steps(run))
        assert f"stopped   after step {before}, saved; resume with: sft train --resume {run.path}" in ended.out
        resumed_as_straight(sft, run, straight, fault, before)
        assert fault.repeated == 0


def test_second_ctrl_c_stops_at_once(sft, straight, ledger, tmp_path):
    run = RunDir(tmp_path / "run")
    command = sft(
        *words(run.path),
        before=SLOW.replace("0.15", "30 if arguments[2] == 4 else 0"),
    )
    assert command.until(lambda: len(steps(run)) == 4)
    with ledger.fault("SIGINT twice", "a step") as fault:
        time.sleep(0.3)
        command.send(signal.SIGINT)
        time.sleep(0.3)
        sent = time.monotonic()
        command.send(signal.SIGINT)
        ended = command.wait()
        assert time.monotonic() - sent < 20
        assert (ended.code, ended.err) == (130, "")
        assert f"stopped   resume with: sft train --resume {run.path}" in ended.out
        assert len(steps(run)) == 4
        resumed_as_straight(sft, run, straight, fault, 4)
        assert fault.repeated == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_during_loading_prints_how_to_resume(sft, straight, ledger, tmp_path, number):
    run = RunDir(tmp_path / "run")
    waiting = (
        "import time\nfrom sft_cli.train import session\nsession.TrainingSession.build = lambda *_: time.sleep(60)\n"
    )
    command = sft(*words(run.path), before=waiting)
    assert command.until(lambda: run.data.is_file() and run.probes.is_file())
    time.sleep(0.3)
    with ledger.fault(number.name, "loading the model") as fault:
        command.send(number)
        ended = command.wait()
        assert (ended.code, ended.err) == (128 + number, "")
        assert ended.out.endswith(f"stopped   resume with: sft train --resume {run.path}\n")
        resumed_as_straight(sft, run, straight, fault, 0)


def test_second_process_in_a_run_directory_is_refused(sft, straight, ledger, tmp_path):
    run = RunDir(tmp_path / "run")
    command = sft(*words(run.path), before=SLOW)
    assert command.until(lambda: len(steps(run)) >= 1)
    with ledger.fault("two processes", "resuming a run that trains") as fault:
        second = sft("train", "--resume", str(run.path)).wait()
        assert second.code == 2
        assert second.err.startswith(
            f"error: {run.path}: process {command.pid} on {socket.gethostname()} has been training there since "
        )
        assert f"(kill {command.pid}, on {socket.gethostname()})" in second.err
        ended = command.wait()
        assert (ended.code, ended.err) == (0, "")
        assert steps(run) == steps(straight)
        fault.lost = lost_bytes(run, straight)
        assert fault.lost == 0


@pytest.mark.parametrize("jump", [-400 * 86_400, 400 * 86_400])
def test_jumping_python_clock_changes_nothing(sft, straight, ledger, tmp_path, jump):
    """Training does not use this clock, and the seconds of a step come from a monotonic one."""
    run = RunDir(tmp_path / "run")
    with ledger.fault("clock jump", f"{jump // 86_400:+} days while it trains") as fault:
        ended = sft(*words(run.path), before=JUMP.format(jump=jump)).wait()
        assert (ended.code, ended.err) == (0, "")
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        assert abs(lines[-1]["at"] - lines[0]["at"] - jump) < 60
        assert all(0 < line["seconds"] < 30 for line in lines)
        assert steps(run) == steps(straight)
        fault.lost = lost_bytes(run, straight)


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_jumping_system_clock_changes_nothing(straight, home, ledger, tmp_path):
    """The C library's clock, used by all threads and libraries; it also gives the run its default name."""
    offset = tmp_path / "offset"
    offset.write_text("+400d")
    environment = {
        **os.environ, "SFT_HOME": str(home), "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    run = RunDir(tmp_path / "run")
    with ledger.fault("clock jump", "libfaketime, back while it trains") as fault:
        command = [sys.executable, "-m", "sft_cli", *words(run.path, "trainer.save_every=1")]
        process = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
        while process.poll() is None and len(steps(run)) < 3:
            time.sleep(0.01)
        offset.write_text("-400d")
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, (out, err)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        assert lines[-1]["at"] < lines[0]["at"]
        assert all(0 < line["seconds"] < 30 for line in lines)
        assert steps(run) == steps(straight)
        fault.lost = lost_bytes(run, straight)


def test_prepared_rows_can_be_removed_during_training(sft, straight, ledger, tmp_path):
    """The rows are memory-mapped; the resumed run prepares them again with the same result."""
    run, home = RunDir(tmp_path / "run"), tmp_path / "home"
    command = sft(*words(run.path), before=SLOW, SFT_HOME=str(home))
    assert command.until(lambda: len(steps(run)) >= 4)
    with ledger.fault("file removed", "the prepared rows, while it trains") as fault:
        shutil.rmtree(home)
        command.until(lambda: len(steps(run)) >= 6)
        command.send(signal.SIGKILL)
        assert command.wait().code == -signal.SIGKILL
        before = len(steps(run))
        ended = sft("train", "--resume", str(run.path), SFT_HOME=str(home)).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        fault.repeated = before - int(ended.out.partition("resume    after step ")[2].split()[0])
        assert fault.repeated <= SAVE_EVERY
        assert steps(run) == steps(straight)
        fault.lost = lost_bytes(run, straight)
