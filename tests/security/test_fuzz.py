"""The fuzzer (scripts/fuzz) on a few thousand inputs of each kind; a manual run has 100,000 of each."""

import importlib
import sys
from pathlib import Path

import pytest

from sft_cli.sandbox import budget

FUZZ = Path(__file__).resolve().parents[2] / "scripts/fuzz"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "inputs"), [("config", 1500), ("rows", 4000), ("files", 3000), ("templates", 1500)])
def test_no_input_fails_hangs_or_writes_outside(name, inputs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(tmp_path))
    for limit in ("MAX_STEPS", "MAX_SIZE"):  # the fuzzer of templates lowers these limits in its own process
        monkeypatch.setattr(budget, limit, vars(budget)[limit])
    watching, kind = importlib.import_module("watching"), importlib.import_module(f"of_{name}")
    found = watching.fuzz(kind.INPUTS, kind.target, inputs, 2026, lambda line: print(line, file=sys.stderr))
    assert found.inputs >= inputs // 2
    assert not found.failures


def test_watch_detects_forbidden_actions(tmp_path, monkeypatch):
    """An exception, a hang, a file outside and a started program are each a failure."""
    monkeypatch.syspath_prepend(str(FUZZ))
    watching = importlib.import_module("watching")
    monkeypatch.setattr(watching, "SECONDS", 0.2)
    import signal
    import subprocess

    before = signal.signal(signal.SIGPROF, watching._late)
    sys.addaudithook(watching._audit)
    (tmp_path / "inside").mkdir()

    def hang(value):
        while True:
            pass

    try:
        for target in (
            lambda value: 1 / 0,
            hang,
            lambda value: (tmp_path / "outside").write_text("x"),
            lambda value: subprocess.run(["true"], check=True),
        ):
            found = watching.TargetResult()
            watching.watch(target, None, tmp_path / "inside", found)
            assert found.outcomes == {"failure": 1}
        found = watching.TargetResult()
        watching.watch(lambda value: (tmp_path / "inside/x").write_text("x") and None, None, tmp_path / "inside", found)
        assert found.outcomes == {"accepted": 1}
    finally:
        signal.signal(signal.SIGPROF, before)
    assert not (tmp_path / "outside").exists()
