"""Run checks within a budget, each in a process group with a time limit; write a JSON line before and after each.

Nothing here knows what a check does: a check is a command that leaves ``result.json`` in its directory.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RESERVE = 3.0
"""Seconds of the budget that are kept to end processes and write the last lines."""
ENOUGH = 0.4
"""A check is not begun with less than this share of its time limit."""
ERROR = re.compile(r"^(\w[\w.]*(Error|Exception|Interrupt)\b.*|error:.*|E   .*)", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """A check as the runner sees it.

    Attributes:
        name: Its name, also that of its directory.
        limit: Most seconds.
        background: Whether it runs at the same time as the checks after it.
        needs: Checks in the background whose results it reads.
    """

    name: str
    limit: float
    background: bool = False
    needs: tuple[str, ...] = ()


class Runner:
    """Runs tasks and writes their lines to stdout and ``results.jsonl``."""

    def __init__(
        self, out: Path, budget: float, command: Callable[[str, Path], Sequence[str]], environment: dict[str, str]
    ) -> None:
        """Prepare a run.

        Args:
            out: Directory of the results.
            budget: Most seconds of everything together.
            command: Returns the command line of a check, by its name and its directory.
            environment: Environment of the checks.
        """
        self._out, self._command, self._environment = out, command, environment
        self._started = time.monotonic()
        self._deadline = self._started + budget - RESERVE
        self._budget, self._lock = budget, threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._verdicts = Counter[str]()
        out.mkdir(parents=True, exist_ok=True)
        self._lines = (out / "results.jsonl").open("w", encoding="utf-8")

    def run(self, tasks: Sequence[Task]) -> int:
        """Run the tasks in order, background tasks at the same time as later ones; return the exit code."""
        lanes = list[threading.Thread]()
        try:
            for task in tasks:
                if task.background:
                    lanes.append(threading.Thread(target=self._run_task, args=(task,)))
                    lanes[-1].start()
                else:
                    self._run_task(task)
            for lane in lanes:
                lane.join()
        finally:
            self._deadline = 0.0  # after an interrupt nothing new begins
            for process in list(self._running):
                end_group(process)
            for lane in lanes:
                lane.join()
            self._write({"event": "summary", "seconds": self._seconds(), "verdicts": dict(self._verdicts)})
            self._lines.close()
        return 1 if self._verdicts["failed"] or self._verdicts["timed out"] else 0

    def _run_task(self, task: Task) -> None:
        shutil.rmtree(self._out / task.name, ignore_errors=True)
        left = self._deadline - time.monotonic()
        if left < ENOUGH * task.limit:
            why = f"{max(0, left):.0f} s of the budget of {self._budget:.0f} s were left"
            self._finish(task, 0.0, {"verdict": "skipped", "error": None, "numbers": {}, "skipped": [why]})
            return
        self._write({"event": "started", "check": task.name, "limit": round(min(task.limit, left), 1)})
        began = time.monotonic()
        try:
            outcome = self._run_process(task, min(task.limit, left))
        except Exception as error:  # nothing ends the run
            outcome = {"verdict": "failed", "error": f"{type(error).__name__}: {error}", "numbers": {}}
        self._finish(task, time.monotonic() - began, outcome)

    def _run_process(self, task: Task, limit: float) -> dict[str, Any]:
        """Run one check and return its outcome."""
        directory = self._out / task.name
        directory.mkdir()
        log, result = directory / "log.txt", directory / "result.json"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(task.name, directory), env=self._environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._running.add(process)
        try:
            process.wait(limit)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            end_group(process)
            self._running.discard(process)
        found = read_result(result)
        text = log.read_text(encoding="utf-8", errors="replace")
        outcome: dict[str, Any] = {"verdict": "passed", "error": None, "numbers": {}, **found, "log": str(log)}
        failures = outcome.pop("failures", [])
        if not ended:
            outcome |= {"verdict": "timed out", "error": f"ended after {limit:.0f} s; {first_error(text)}"}
        elif process.returncode or not found:
            outcome |= {"verdict": "failed", "error": first_error(text) or f"exit code {process.returncode}"}
        if failures and ended:
            outcome |= {"verdict": "failed", "error": failures[0], "failures": failures}
        return outcome

    def _finish(self, task: Task, seconds: float, outcome: dict[str, Any]) -> None:
        directory = self._out / task.name
        directory.mkdir(exist_ok=True)
        self._verdicts[outcome["verdict"]] += 1
        line = {"event": "finished", "check": task.name, "seconds": round(seconds, 1), **outcome}
        self._write(line)
        part = directory / "outcome.part"
        part.write_text(json.dumps(line), encoding="utf-8")
        part.replace(directory / "outcome.json")

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 1)

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            text = json.dumps({"at": self._seconds(), **line}, ensure_ascii=False)
            print(text, flush=True)
            self._lines.write(text + "\n")
            self._lines.flush()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a check: its process group, and descendants that made groups of their own."""
    found = list[psutil.Process]()
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(found, timeout=2)  # those in uninterruptible calls stay longer


def read_result(file: Path) -> dict[str, Any]:
    """Return what a check has found so far; empty where it wrote nothing readable."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def first_error(log: str) -> str:
    """Return the first line of a log that names an error, else its last line."""
    if found := ERROR.search(log):
        return found[0].strip()[:500]
    lines = log.strip().splitlines()
    return lines[-1].strip()[:500] if lines else ""
