"""How the threads of a run wait: spinning briefly on an idle machine, asleep on a busy one."""

import os
import subprocess
import sys

import pytest

from sft_cli.cli import waiting_threads
from sft_cli.cli.waiting_threads import is_idle, running_threads, set_waiting


@pytest.mark.parametrize(
    ("running", "cores", "idle"),
    [([1], 2, True), ([2], 2, False), ([3, 3, 1, 3, 3], 2, True), ([17], 64, True), ([18], 64, False), ([1], 1, True)],
)
def test_a_machine_is_idle_unless_something_always_runs(running, cores, idle):
    counts = iter(running * 5)
    assert is_idle(lambda: next(counts), cores) is idle


@pytest.mark.parametrize(
    ("given", "running", "found"),
    [
        ({}, 1, {"GOMP_SPINCOUNT": "4000"}),
        ({}, 1 << 20, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 1 << 20, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, 1, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_the_environment_unless_the_user_decided(given, running, found):
    environment = dict(given)
    set_waiting(environment, lambda: running)
    assert environment == found


def test_running_threads_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting_threads, "LOAD", tmp_path / "loadavg")
    assert running_threads() > 1000, "a system that does not tell counts as busy"
    (tmp_path / "loadavg").write_text("0.31 0.20 0.11 3/185 28423\n")
    assert running_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_torch_is_loaded_after_the_decision():
    """The command line itself loads no torch, so libgomp reads what was decided."""
    code = "import sys, sft_cli.cli.program as p; assert 'torch' not in sys.modules; print(p.set_waiting is not None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "True", done.stderr
