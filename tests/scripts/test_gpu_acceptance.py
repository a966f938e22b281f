"""``scripts/gpu_acceptance.py``: limits, budget and lines of its driver, and its checks on the simulated card."""

import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cuda_simulator.build import reason_to_skip

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
RESULT = "import json, pathlib, sys; write = lambda **found: pathlib.Path(sys.argv[1]).write_text(json.dumps(found)); "
WORK = {
    "good": "write(verdict='passed', numbers={'speed': 2.5})",
    "wrong": "write(verdict='passed', failures=['the loss is 3', 'and more']); sys.exit()",
    "broken": "raise ValueError('no such key')",
    "silent": "pass",
    "absent": "write(verdict='skipped', skipped=['no such library'])",
    "hanging": "import os, subprocess, time; write(numbers={'steps': 7}, verdict='passed'); "
    "child = subprocess.Popen(['sleep', '60'], start_new_session=True); print('child', child.pid, flush=True); "
    "time.sleep(60)",
}


@pytest.fixture
def runner(monkeypatch):
    """The module with the driver."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("acceptance.runner")
    monkeypatch.setattr(module, "RESERVE", 0.0)
    return module


def run(runner, out, tasks, budget=60.0):
    """Run tasks of ``WORK`` and return the exit code and the lines of results.jsonl."""

    def command(name, directory):
        return [sys.executable, "-S", "-c", RESULT + WORK[name.rstrip("2")], str(directory / "result.json")]

    status = runner.Runner(out, budget, command, {}).run(tasks)
    return status, [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def ends(lines):
    return {line["check"]: line for line in lines if line["event"] == "finished"}


def test_no_check_ends_the_run(runner, tmp_path, capsys):
    names = ["broken", "wrong", "hanging", "silent", "absent", "good"]
    status, lines = run(runner, tmp_path, [runner.Task(name, 1.0 if name == "hanging" else 20.0) for name in names])

    assert status == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert [(line["event"], line["check"]) for line in lines[:-1]] == [
        (event, name) for name in names for event in ("started", "finished")
    ]
    found = ends(lines)
    assert {name: line["verdict"] for name, line in found.items()} == {
        "broken": "failed", "wrong": "failed", "hanging": "timed out", "silent": "failed", "absent": "skipped",
        "good": "passed",
    }  # fmt: skip
    assert found["broken"]["error"] == "ValueError: no such key"
    assert (found["wrong"]["error"], found["wrong"]["failures"][1]) == ("the loss is 3", "and more")
    assert found["silent"]["error"] == "exit code 0"
    assert found["absent"]["skipped"] == ["no such library"]
    assert found["good"]["numbers"] == {"speed": 2.5}
    assert lines[-1]["verdicts"] == {"failed": 3, "timed out": 1, "skipped": 1, "passed": 1}


def test_a_check_is_killed_with_its_children_and_keeps_its_numbers(runner, tmp_path):
    _, lines = run(runner, tmp_path, [runner.Task("hanging", 3.0)])

    line = ends(lines)["hanging"]
    assert line["seconds"] < 20
    assert line["numbers"] == {"steps": 7}
    assert "ended after 3 s" in line["error"]
    child = int(re.search(r"child (\d+)", Path(line["log"]).read_text())[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_the_budget_does_not_admit_is_skipped(runner, tmp_path):
    began = time.monotonic()
    status, lines = run(runner, tmp_path, [runner.Task("hanging", 2.0), runner.Task("hanging2", 2.0)], budget=2.5)

    assert status == 1
    assert time.monotonic() - began < 20
    found = ends(lines)
    assert found["hanging"]["verdict"] == "timed out"
    assert found["hanging2"]["verdict"] == "skipped"
    assert "of the budget of 2 s were left" in found["hanging2"]["skipped"][0]


def test_skipped_checks_do_not_fail_the_run(runner, tmp_path):
    tasks = [runner.Task("hanging", 1.0, background=True), runner.Task("good", 20.0), runner.Task("absent", 20.0)]
    status, lines = run(runner, tmp_path, tasks[1:])
    assert status == 0
    status, lines = run(runner, tmp_path, tasks)

    assert status == 1
    assert lines[0]["check"] == "hanging"
    assert json.loads((tmp_path / "good" / "outcome.json").read_text())["verdict"] == "passed"


def test_the_table_is_complete(monkeypatch):
    """Every check exists, and has sizes for a card and for the simulator; what one needs comes before it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    checks, sizes = (importlib.import_module(f"acceptance.{name}") for name in ("checks", "sizes"))
    names = list(checks.CHECKS)

    for kind in sizes.SIZES.values():
        assert set(kind) == set(names)
    for name, entry in checks.CHECKS.items():
        module, function = entry.place.split(":")
        source = (SCRIPTS / f"{module.replace('.', '/')}.py").read_text()
        assert f"\ndef {function}(check: Check) -> None:" in source
        assert all(names.index(need) < names.index(name) and checks.CHECKS[need].background for need in entry.needs)


def dry(tmp_path, *words):
    """Run checks on the simulated card and return the lines by check."""
    command = [sys.executable, "scripts/gpu_acceptance.py", "--dry", "--out", str(tmp_path), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode, ends(map(json.loads, done.stdout.splitlines()))


@pytest.mark.slow
@pytest.mark.skipif(reason_to_skip() is not None, reason=f"no simulated CUDA: {reason_to_skip()}")
@pytest.mark.timeout(1500)
def test_a_check_passes_on_the_simulator(tmp_path):
    status, found = dry(tmp_path, "--only", "tf32")

    assert status == 0
    assert found["tf32"]["numbers"]["difference_2_layers_off"] < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(reason_to_skip() is not None, reason=f"no simulated CUDA: {reason_to_skip()}")
@pytest.mark.timeout(6000)
def test_every_check_passes_on_the_simulator(tmp_path):
    status, found = dry(tmp_path)

    assert status == 0
    assert {line["verdict"] for line in found.values()} <= {"passed", "skipped"}
    assert [name for name, line in found.items() if line["verdict"] == "skipped"] in (
        ["flex_compile", "liger"],
        ["liger"],
    )
    assert found["profile"]["numbers"]["waits"] == [1, 1]
    assert found["profile"]["skipped"] == ["times of kernels: the card is simulated"]
