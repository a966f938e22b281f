"""Whole sweeps in a shell: equal to sft train, failures, signals, a killed sweep."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_cli.run_dir import RunDir

SHORT = [
    "recipe=quickstart",
    "trainer.max_steps=10",
    "trainer.save_every=2",
    "trainer.eval_every=5",
    "eval.compare_after_training=false",
    "eval.samples=0",
]
PROBE = """
import sys
from sft_cli.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


@pytest.fixture
def home(tmp_path) -> Path:
    """Return a working directory for runs, sweeps and prepared data."""
    return tmp_path


def start(home: Path, *words: str, command: str = "sweep") -> subprocess.Popen[str]:
    """Start ``sft sweep``, in a process that must not import torch, or ``sft train``."""
    program = ["-c", PROBE] if command == "sweep" else ["-m", "sft_cli"]
    return subprocess.Popen(
        [sys.executable, *program, command, *words],
        cwd=home,
        env={**os.environ, "SFT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(home: Path, *words: str, command: str = "sweep") -> tuple[int, str]:
    """Return exit code and output."""
    process = start(home, *words, command=command)
    output, _ = process.communicate(timeout=250)
    return process.returncode, output


def learned(directory: Path) -> list[tuple[object, ...]]:
    """Return the lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in RunDir(directory).metrics.read_text().splitlines()]
    return [(line["step"], line["loss"], line.get("grad_norm"), line.get("lr")) for line in lines]


def until(process: subprocess.Popen[str], look: Callable[[], object], seconds: float = 200) -> None:
    """Wait until a condition is true; fail with the output of the sweep if it ends first or takes too long."""
    deadline = time.monotonic() + seconds
    while not look():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.05)


def steps(directory: Path) -> int:
    file = RunDir(directory).metrics
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.mark.slow
def test_member_trains_like_sft_train_despite_a_failed_one(home):
    """The target modules of the second member do not exist; the others equal two runs of sft train."""
    words = [*SHORT, "adapter.target_modules=[all-linear],[nothing],[q_proj]", "--parallel", "2", "--out", "s"]
    code, output = run(home, *words)

    assert code == 1, output
    failed = [line for line in output.splitlines() if line.startswith("failed")]
    assert len(failed) == 2
    assert re.search(r"\nagain     sft sweep --resume \S+  # trains the failed members again\n\Z", output)
    assert all(line.startswith("failed    002 target_modules=[nothing]: ") for line in failed)
    assert "Traceback" not in output
    assert len(list((home / "prepared").iterdir())) == 1
    record = json.loads((home / "s" / "sweep.json").read_text())
    assert [member["state"] for member in record["members"]] == ["finished", "failed", "finished"]
    page = (home / "s" / "report.html").read_text()
    assert "[nothing]" in page
    for number, modules in enumerate(("all-linear", "nothing", "q_proj"), 1):
        member = home / "s" / f"{number:03}-target_modules={modules}"
        assert (member / "train.log").is_file()
        if modules != "nothing":
            alone = home / f"alone-{modules}"
            words = [*SHORT, f"adapter.target_modules=[{modules}]", f"run_dir={alone}"]
            code, output = run(home, *words, command="train")
            assert code == 0, output
            assert learned(member) == learned(alone)
            assert learned(member)[-1][0] == 10


@pytest.mark.slow
def test_killed_sweep_resumes_without_losing_steps(home):
    """The sweep is killed during the second of three members: the first is not repeated, the second resumes."""
    words = [*SHORT, "trainer.lr=1e-3,2e-3,3e-3", "--out", "s"]
    first, second, third = (home / "s" / f"{number:03}-lr={number}e-3" for number in (1, 2, 3))
    process = start(home, *words)
    until(process, lambda: steps(second) >= 3)
    process.kill()
    process.communicate()
    began = (first / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert not (third / "train.log").exists()

    code, output = run(home, "--resume", "s")

    assert code == 0, output
    assert "s: 3 finished\n" in output
    assert (first / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == began
    assert "001" not in output[: output.index("member")]
    assert "resume    after step" in (second / "train.log").read_text()
    alone = home / "alone"
    code, output = run(home, *SHORT, "trainer.lr=2e-3", f"run_dir={alone}", command="train")
    assert code == 0, output
    assert sorted(learned(second), key=str) == sorted(learned(alone), key=str)
    code, output = run(home, "--resume", "s", "--metric", "grad_norm", "--mode", "max")
    assert code == 0
    assert "ranked    by last training grad_norm, larger is better" in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_lets_members_save_and_prints_how_to_resume(home, number):
    words = [*SHORT, "trainer.max_steps=500", "trainer.lr=1e-3,2e-3,3e-3", "--parallel", "2", "--out", "s"]
    members = [home / "s" / f"{place:03}-lr={place}e-3" for place in (1, 2, 3)]
    process = start(home, *words)
    until(process, lambda: min(map(steps, members[:2])) >= 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=200)

    assert process.returncode == 128 + number
    assert "stopping  2 running members save checkpoints; a second " in output
    assert re.search(
        r"\nstopped   by SIG[A-Z]+, 0 of 3 members finished; continue with: sft sweep --resume s\n\Z", output
    )
    assert "2 interrupted, 1 waiting" in output
    record = json.loads((home / "s" / "sweep.json").read_text())
    assert [member["state"] for member in record["members"]] == ["interrupted", "interrupted", "waiting"]
    for member in members[:2]:
        assert list(RunDir(member).checkpoints.iterdir())
    assert not (members[2] / "train.log").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["recipe=quickstart"], "error: command line: no word has several values, so there is nothing to sweep over\n"),
        (["trainer.lr=1,2", "--parallel", "0"], "error: --parallel 0: it must be a whole number of at least 1\n"),
        (["trainer.lr=1,2", "--metric", ""], "error: --metric: the option has no value\n"),
        (["--resume", "nowhere"], "error: --resume nowhere: not the directory of a sweep (it has no sweep.json)\n"),
        (
            ["--resume", "nowhere", "trainer.lr=1"],
            "error: trainer.lr=1: the settings of an existing sweep cannot be changed\n",
        ),
        (["--resume", "nowhere", "-d", "."], "error: -d .: the settings of an existing sweep cannot be changed\n"),
        (
            ["recipe=quickstart", "trainer.lr=1,2", "--metric", "accuracy"],
            "error: --metric accuracy: no member of the sweep records it\n",
        ),
        (["recipe=quickstart", "trainer.lr=1,2", "--out", "."], "error: --out .: the path exists\n"),
    ],
)
def test_mistake_is_one_message_and_leaves_no_files(home, words, sentence):
    (home / "something").touch()
    code, output = run(home, *words)
    assert code == 2, output
    assert output.startswith(sentence)
    assert "Traceback" not in output
    assert [path.name for path in home.iterdir()] == ["something"]
