"""The checkpoint directory of a run: list, verify, prune."""

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from sft_cli.console import say
from sft_cli.utils.hashing import sha256_of_file

STEP_PATTERN = re.compile(r"step-\d+")
STATE_FILE = "state.json"
"""The file that every checkpoint has."""


def latest_valid(root: Path) -> Path | None:
    """Return the newest valid checkpoint, or None; prints a warning for each damaged one."""
    for directory in reversed(list_checkpoints(root)):
        fault = find_fault(directory)
        if fault is None:
            return directory
        say(f"warning: checkpoint {directory} is damaged ({fault}); trying the one before it")
    if list_checkpoints(root):
        say("warning: all checkpoints are damaged: training starts again from step 0")
    return None


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint directories, oldest first."""
    # Symbolic links are ignored: their targets are not this run's to remove.
    directories = [path for path in root.glob("step-*") if STEP_PATTERN.fullmatch(path.name) and not path.is_symlink()]
    return sorted(directories, key=checkpoint_step)


def checkpoint_step(directory: Path) -> int:
    """Return the step number in the name of a checkpoint."""
    return int(directory.name.removeprefix("step-"))


def find_fault(directory: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, as a phrase, or None."""
    manifest = directory / "manifest.json"
    if not manifest.is_file():
        return "manifest.json is missing"
    try:
        hashes = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return "manifest.json is not readable"
    if not isinstance(hashes, dict) or STATE_FILE not in hashes:
        return "manifest.json does not list " + STATE_FILE
    for name, expected in hashes.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_of_file(file) != expected:
            return f"{name} does not match its sha256"
    return None


def prune_checkpoints(root: Path, keep_steps: Collection[int | None], keep: int) -> None:
    """Remove all checkpoints but the newest ``keep`` and those of ``keep_steps``."""
    for directory in list_checkpoints(root)[:-keep]:
        if checkpoint_step(directory) not in keep_steps:
            remove_checkpoint(directory)


def remove_after(root: Path, step: int) -> None:
    """Remove checkpoints after ``step``: the run continues from there and writes them again."""
    remove_partial(root)
    for directory in list_checkpoints(root):
        if checkpoint_step(directory) > step:
            remove_checkpoint(directory)


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that an incomplete removal leaves no damaged checkpoint."""
    temporary = directory.with_name(f".{directory.name}.old.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    directory.rename(temporary)
    shutil.rmtree(temporary)


def remove_partial(root: Path) -> None:
    """Remove the temporary directories that a killed process left."""
    for directory in root.glob(".step-*.tmp"):
        shutil.rmtree(directory, ignore_errors=True)
