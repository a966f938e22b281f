"""The checkpoints of a run: which there are, which of them are whole, and which are kept."""

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from sft_cli.console import say
from sft_cli.utils.hashing import sha256_of_file

STEP = re.compile(r"step-\d+")
STATE = "state.json"
"""The file without which none is a checkpoint."""


def newest(root: Path) -> Path | None:
    """The newest checkpoint that is whole; broken ones are skipped aloud."""
    for directory in reversed(all_of(root)):
        fault = fault_of(directory)
        if fault is None:
            return directory
        say(f"checkpoint {directory} is broken ({fault}); trying the one before it")
    if all_of(root):
        say("checkpoint all are broken: training starts again from step 0")
    return None


def all_of(root: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    # A link is left alone: what it leads to is not this run's to read or remove.
    found = [path for path in root.glob("step-*") if STEP.fullmatch(path.name) and not path.is_symlink()]
    return sorted(found, key=step_of)


def step_of(directory: Path) -> int:
    """The step in a checkpoint's name."""
    return int(directory.name.removeprefix("step-"))


def fault_of(directory: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    manifest = directory / "manifest.json"
    if not manifest.is_file():
        return "manifest.json is missing"
    try:
        hashes = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return "manifest.json is not readable"
    if not isinstance(hashes, dict) or STATE not in hashes:
        return "manifest.json names no " + STATE
    for name, wanted in hashes.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_of_file(file) != wanted:
            return f"{name} does not match its sha256"
    return None


def prune(root: Path, spared: Collection[int | None], keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints and those of the steps ``spared``."""
    for directory in all_of(root)[:-keep]:
        if step_of(directory) not in spared:
            remove(directory)


def forget_after(root: Path, step: int) -> None:
    """Remove checkpoints behind ``step``: the run goes on from there and writes them again."""
    sweep(root)
    for directory in all_of(root):
        if step_of(directory) > step:
            remove(directory)


def remove(directory: Path) -> None:
    """Remove a checkpoint; what is half removed does not pass for one, because its name goes first."""
    doomed = directory.with_name(f".{directory.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    shutil.rmtree(doomed)


def sweep(root: Path) -> None:
    """Remove what was being written, or removed, when a process was killed."""
    for left in root.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
