"""What a check records, and how it runs commands on the card or on its simulator."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Findings:
    """The results of a check, written after every change: a check that is killed keeps what it has found.

    A check does not end at its first failure: ``expect`` records it, and the rest still runs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, Any] = {"verdict": "passed", "numbers": {}, "failures": [], "skipped": []}
        self._save()

    def number(self, **values: Any) -> None:
        """Record numbers by name."""
        self._found["numbers"] |= {
            name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()
        }
        self._save()

    def expect(self, condition: bool, problem: str) -> None:
        """Record a failure unless the condition holds."""
        if not condition:
            self._found["failures"].append(problem)
            self._save()

    def skip(self, why: str, *, everything: bool = False) -> None:
        """Record a part that cannot run here; ``everything``: the check itself is skipped."""
        self._found["skipped"].append(why)
        if everything:
            self._found["verdict"] = "skipped"
        self._save()

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self._found, ensure_ascii=False), encoding="utf-8")
        part.replace(self._file)


@dataclass(frozen=True)
class Check:
    """What a check is given.

    Attributes:
        directory: Its own directory, for logs and runs.
        sizes: The sizes of this check: those of a card, or of the simulator.
        dry: Whether the card is simulated.
        found: Where it records its results.
    """

    directory: Path
    sizes: Mapping[str, Any]
    dry: bool
    found: Findings = field(compare=False)

    @property
    def python(self) -> list[str]:
        """The command that runs a module on the card, to be followed by the module's name and its arguments."""
        return [sys.executable, "-m", *(["tests.cuda_simulator"] if self.dry else [])]

    def start(self, words: Sequence[str], log: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command, with its output in ``log``."""
        with (self.directory / log).open("wb") as output:
            return subprocess.Popen(
                words, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
            )

    def sft(self, *words: str, log: str, expected: int = 0) -> str:
        """Run ``sft`` to its end and return its output; any other exit code than ``expected`` is a failure."""
        status = self.start([*self.python, "sft_cli", *words], log).wait()
        text = self.text(log)
        print(text)
        self.found.expect(status == expected, f"sft {words[0]} ended with {status}: {last_line(text)}")
        return text

    def text(self, log: str) -> str:
        """Return the text of a log so far."""
        return (self.directory / log).read_text(encoding="utf-8", errors="replace")

    def outcome_of(self, other: str) -> dict[str, Any]:
        """Wait for another check of this run to end, and return its line."""
        file = self.directory.parent / other / "outcome.json"
        while not file.exists():
            time.sleep(0.2)
        return json.loads(file.read_text(encoding="utf-8"))


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def read_steps(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the steps in a run's metrics, without evaluations and without an incomplete last line."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    return [line for line in map(json.loads, lines) if "loss" in line and "eval" not in line]


def losses(run: Path) -> list[float]:
    """Return the loss of each step of a run."""
    return [line["loss"] for line in read_steps(run)]


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest relative difference of two series; infinite where their lengths differ or both are empty."""
    if len(found) != len(expected) or not found:
        return float("inf")
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))
