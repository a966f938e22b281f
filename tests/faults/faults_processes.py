"""Start `sft` commands that can be killed, and report how they ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("faults_fork.py")
PATIENCE = 120.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """Result of a command: its exit code (negative: the signal) and its output."""

    code: int
    out: str
    err: str


class Forks:
    """The process that forks commands; call ``close`` at the end."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._started = 0
        self._answer()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(
        self, words: list[str], folder: Path, environment: Mapping[str, str] | None = None, before: str = ""
    ) -> "Command":
        """Start ``sft WORDS`` in a new process.

        Args:
            words: The command line.
            folder: Directory of its output.
            environment: Variables added to those of this process.
            before: Python code that runs in it first.
        """
        folder.mkdir(exist_ok=True)
        self._started += 1
        out, err = folder / f"{self._started}.out", folder / f"{self._started}.err"
        for file in (out, err):
            file.touch()
        started = {"words": words, "out": str(out), "err": str(err), "before": before}
        answer = self.ask(start={**started, "environment": dict(environment or {})})
        return Command(self, answer["pid"], out, err)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()  # taking torch down would take seconds
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the forking process died"
        return json.loads(line)


@dataclass
class Command:
    """A running command."""

    forks: Forks
    pid: int
    out: Path
    err: Path
    code: int | None = None
    began: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        """Return whether the command has ended."""
        if self.code is None:
            self.code = self.forks.ask(wait=self.pid, block=False)["code"]
        return self.code is not None

    def send(self, number: signal.Signals) -> None:
        """Send the command a signal if it still runs."""
        if not self.over():
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for the end and return the result."""
        while not self.over():
            if time.monotonic() - self.began > PATIENCE:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"it hangs: {self.out.read_text()} {self.err.read_text()}")
            time.sleep(0.01)
        assert self.code is not None
        return Ended(self.code, self.out.read_text(), self.err.read_text())

    def until(self, condition: Callable[[], bool]) -> bool:
        """Poll a condition until it is true; return False if the command ends first."""
        while not condition():
            if self.over():
                return False
            assert time.monotonic() - self.began < PATIENCE, self.out.read_text()
            time.sleep(0.0005)
        return True
