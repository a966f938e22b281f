"""Fixtures of the fault tests: forked commands, an undisturbed run, small disks, and a ledger printed at the end."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults_ledger import Ledger
from faults_processes import Forks
from faults_runs import words

from sft_cli.run_dir import RunDir

LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config):
    config.stash[LEDGER] = Ledger()


@pytest.fixture(scope="session")
def ledger(request) -> Ledger:
    """The record of all faults of the session."""
    return request.config.stash[LEDGER]


def pytest_terminal_summary(terminalreporter, config):
    """Show the ledger, and keep it where SFT_FAULTS_LEDGER says."""
    ledger = config.stash[LEDGER]
    if ledger.faults:
        terminalreporter.section("faults")
        for line in ledger.lines():
            terminalreporter.write_line(line)
        if file := os.environ.get("SFT_FAULTS_LEDGER"):
            ledger.save(Path(file))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that forks commands."""
    found = Forks()
    yield found
    found.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A cache that holds the prepared rows once the undisturbed run is done."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def straight(forks, home, tmp_path_factory) -> RunDir:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("straight")
    ended = forks.start(words(folder / "run"), folder / "logs", {"SFT_HOME": str(home)}).wait()
    assert (ended.code, ended.err) == (0, ""), ended
    return RunDir(folder / "run")


@pytest.fixture
def sft(forks, home, tmp_path) -> Callable:
    """Return a function that starts ``sft WORDS`` with rows that are already prepared."""

    def start(*words: str, before: str = "", **environment: str):
        return forks.start(list(words), tmp_path / "logs", {"SFT_HOME": str(home), **environment}, before)

    return start


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a file system in memory; a second ``disk(size)`` resizes the same one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: str) -> Path:
        how = ["-o", f"remount,size={size}"] if os.path.ismount(place) else ["-t", "tmpfs", "-o", f"size={size}"]
        done = subprocess.run(["mount", *how, "tmpfs", str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)
