"""Kill runs with SIGKILL at every kind of moment, and count the work that each kill cost."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults_ledger import Ledger
from faults_processes import Command, Forks
from faults_runs import SAVE_EVERY, STEPS, lost_bytes, steps, unfinished, whole, words

from sft_cli.run_dir import RunDir

MOMENTS = ("any moment", "preparing", "a step", "writing a checkpoint", "exporting")


@dataclass(frozen=True)
class Victim:
    """A run that is killed again and again."""

    run: RunDir
    home: Path

    def words(self) -> list[str]:
        """Return the command line that starts or resumes the run."""
        return ["train", "--resume", str(self.run.path)] if self.run.config.is_file() else words(self.run.path)


def kill_often(
    forks: Forks, folder: Path, straight: RunDir, ledger: Ledger, *, kills: int, seconds: float, seed: int
) -> None:
    """Kill runs until so many kills are done; every run is then finished and compared with the undisturbed one.

    Args:
        forks: Starts the commands.
        folder: Directory of the runs.
        straight: The undisturbed run.
        ledger: Counts the kills.
        kills: How many.
        seconds: How long an undisturbed run takes.
        seed: Decides the moments.
    """
    chance, number, done = random.Random(seed), 0, 0
    while done < kills:
        victim = Victim(RunDir(folder / f"run-{number}"), folder / f"home-{number}")
        done += _kill_one(forks, victim, straight, ledger, chance, done, kills, seconds)
        number += 1


def _kill_one(
    forks: Forks,
    victim: Victim,
    straight: RunDir,
    ledger: Ledger,
    chance: random.Random,
    done: int,
    kills: int,
    seconds: float,
) -> int:
    """Kill one run at most seven times, until it finishes; return the number of kills."""
    count, struck, broken = 0, "", 0
    while True:
        recorded = len(steps(victim.run))
        command = forks.start(victim.words(), victim.run.path.with_suffix(".logs"), {"SFT_HOME": str(victim.home)})
        moment = None
        if done + count < kills and count < 7:
            moment = _strike(command, victim, MOMENTS[(done + count) % len(MOMENTS)], chance, seconds)
        ended = command.wait()
        if struck:
            with ledger.fault("SIGKILL", struck) as fault:
                fault.repeated, fault.lost = _repeated(ended.out, recorded), broken
                assert ended.code in (0, -signal.SIGKILL), ended
                assert (ended.err, "is damaged" in ended.out) == ("", False), ended
                assert fault.repeated <= SAVE_EVERY, ended
                assert fault.lost == 0
        if ended.code == 0:
            break
        assert moment is not None, ended
        count, struck = count + 1, moment
        broken = sum(_size(path) for path in victim.run.checkpoints.glob("step-*") if not whole(path))
    assert steps(victim.run) == steps(straight)
    assert lost_bytes(victim.run, straight) == 0
    assert unfinished(victim.run) == []
    return count


def _strike(command: Command, victim: Victim, moment: str, chance: random.Random, seconds: float) -> str | None:
    """Kill a command at a moment; return what it was doing, or None if it had already ended."""
    conditions: dict[str, tuple[Callable[[], bool], float]] = {
        "any moment": (lambda: True, seconds),
        "preparing": (lambda: any(victim.home.glob("stages/*/*.partial")), 0.3),
        "a step": (_more_steps(victim, chance.randrange(1, STEPS)), 0.06),
        "writing a checkpoint": (lambda: any(victim.run.checkpoints.glob(".*.tmp")), 0.004),
        "exporting": (lambda: any(victim.run.path.glob(".adapter.tmp")), 0.01),
    }
    condition, within = conditions[moment]
    before = _temporary(victim)
    if not command.until(condition):
        return None
    time.sleep(chance.random() * within)
    command.send(signal.SIGKILL)
    out = command.wait().out
    touched = {path.parent.name for path, _ in _temporary(victim).items() - before.items()}
    if "checkpoints" in touched:
        return "writing a checkpoint"
    if victim.run.path.name in touched:
        return "exporting"
    if "\nrun  " not in out:
        return "loading the model" if "\nreport " in out or "up to date" in out else "preparing"
    return "in a step or between two" if re.search(r"step +\d+/", out) else "loading the model"


def _temporary(victim: Victim) -> dict[Path, tuple[int, int]]:
    """Return the temporary paths, each with its inode and time, which identify it among files of the same name."""
    found = [*victim.run.checkpoints.glob(".*.tmp"), *victim.run.path.glob(".adapter.tmp")]
    states = [(path, path.stat()) for path in found]
    return {path: (state.st_ino, state.st_mtime_ns) for path, state in states}


def _more_steps(victim: Victim, wanted: int) -> Callable[[], bool]:
    """Return a condition: ``wanted`` steps are done, and at least one more than now."""
    wanted = max(wanted, min(STEPS, len(steps(victim.run)) + 1))
    return lambda: len(steps(victim.run)) >= wanted


def _repeated(out: str, recorded: int) -> int:
    """Return the number of steps that a resumed run computes again; 0 if it ended before training."""
    if found := re.search(r"resume    after step (\d+) of", out):
        return recorded - int(found[1])
    return recorded if re.search(r"step +1/", out) else 0


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def many(default: int) -> int:
    """Return the number of kills: SFT_FAULTS_KILLS, or the default."""
    return int(os.environ.get("SFT_FAULTS_KILLS", default))
