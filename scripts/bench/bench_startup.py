"""Measure the time from starting a command to its output: help, a config, a refused config, the first training step.

    python scripts/bench/bench_startup.py

Each command runs several times in its own process; the best and the median are printed with the target. The time of
the first step is when its line appears in metrics.jsonl. The quickstart's rows are prepared before timing.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 3
TARGETS = {"sft --help": 0.2, "sft show": 0.5, "a refused config": 0.5, "first step of the quickstart": 6.0}


def sft(*words: str) -> list[str]:
    """Return the command line of ``sft``."""
    return [sys.executable, "-m", "sft_cli", *words]


def run(words: list[str], environment: dict[str, str]) -> float:
    """Return the seconds of a whole command."""
    started = time.perf_counter()
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def first_step(folder: Path, environment: dict[str, str]) -> float:
    """Return the seconds until the first step of a new run is in its metrics."""
    settings = ["trainer.max_steps=1", f"run_dir={folder}"]
    metrics = folder / "metrics.jsonl"
    started = time.perf_counter()
    with subprocess.Popen(
        sft("train", "recipe=quickstart", *settings), env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while not (metrics.is_file() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit("the quickstart wrote no metrics")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.terminate()  # the time after the step is not measured
    return seconds


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "SFT_HOME": str(Path(scratch) / "home")}
        run(sft("prepare", "recipe=quickstart"), environment)
        found = {
            "sft --help": [run(sft("--help"), environment) for _ in range(REPEATS)],
            "sft show": [run(sft("show", "recipe=quickstart"), environment) for _ in range(REPEATS)],
            "a refused config": [run(sft("train", "trainer.lrr=1"), environment) for _ in range(REPEATS)],
            "first step of the quickstart": [
                first_step(Path(scratch) / f"run-{number}", environment) for number in range(REPEATS)
            ],
        }
    print(f"{'':30}{'best s':>8}{'median s':>10}{'target s':>10}")
    for name, seconds in found.items():
        print(f"{name:30}{min(seconds):8.2f}{statistics.median(seconds):10.2f}{TARGETS[name]:10.1f}")


if __name__ == "__main__":
    main()
