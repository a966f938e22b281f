"""``launcher.nproc``: the real command, its processes, its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHORT = ("recipe=quickstart", "trainer.dtype=float32", "eval.compare_after_training=false", "eval.samples=0")


@pytest.fixture
def sft(tmp_path):
    """Run the command with these words, and return standard error and output."""

    def begin(*words):
        environment = {**os.environ, "SFT_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "sft_cli", "train", *words]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return begin


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_print_once_and_train_like_one(sft, tmp_path):
    output = []
    for size in (1, 2):
        process = sft(*SHORT, "trainer.max_steps=3", f"run_dir={size}", f"launcher.nproc={size}")
        output.append(process.communicate()[0])
        assert process.returncode == 0, output[-1]
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), abs=1e-5)
    assert len(losses(tmp_path / "2")) == 4
    for line in ("run       ", "packing   verified", "step      1/3", "finished  3 steps"):
        assert [text.count(line) for text in output] == [1, 1]


def test_mistake_is_one_error_with_exit_code_2(sft):
    process = sft(*SHORT, "launcher.nproc=2", "adapter.target_modules=[q_prj]", "run_dir=wrong")
    output = process.communicate()[0]
    assert process.returncode == 2
    assert output.count("error: ") == 1
    assert "'q_prj' matches no layer" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "USR1"])
def test_signal_stops_all_processes_after_saving(sft, tmp_path, number):
    process = sft(*SHORT, "trainer.max_steps=2000", "launcher.nproc=2", "run_dir=stopped")
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert "stopped   after step" in output
    assert "Traceback" not in output
    assert len(list((tmp_path / "stopped" / "checkpoints").glob("step-*"))) == 1
