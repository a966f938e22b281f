"""The list of run directories: the state and the last results of each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir, run_folders
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.run_end import read_end
from sft_cli.train.setup import run_lock

RunState = Literal["finished", "finished early", "running", "interrupted", "new"]
"""Finished: there is a trained adapter or model. Finished early: the same, on request, before the last planned step.
Interrupted: the run can be resumed. New: no step is done."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """State and results of a run.

    Attributes:
        path: The run directory.
        state: The state of the run.
        step: Number of optimizer steps done.
        loss: Loss of the last step in nats; None before the first step.
        held_out: Loss of the last evaluation on the held-out rows; None before the first evaluation.
        changed: Time of the last write to the run, in seconds since 1970.
    """

    path: Path
    state: RunState
    step: int
    loss: float | None
    held_out: float | None
    changed: float


def list_runs(folders: Sequence[Path] = ()) -> list[RunSummary]:
    """Return the runs in folders, the most recently changed first.

    Args:
        folders: The folders; if empty, the default folders of runs and the working directory.

    Raises:
        SftError: A folder does not exist.
    """
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise SftError(
            where=str(missing[0]), problem="there is no such folder", fix="sft runs, or sft runs . for this one"
        )
    directories = {file.parent for folder in folders or run_folders() for file in config_files(folder)}
    if not folders:  # other tools also write files named config.yaml
        local = (file.parent for file in Path().glob("*/config.yaml"))
        directories |= {path for path in local if RunDir(path).environment.is_file()}
    directories = {path.absolute() for path in directories}
    return [summarize_run(RunDir(path)) for path in sorted(directories, key=_changed, reverse=True)]


def config_files(folder: Path) -> Iterator[Path]:
    """Yield the config files of the runs in a folder: its own, those of its runs, and those of sweep members."""
    for pattern in ("config.yaml", "*/config.yaml", "*/*/config.yaml"):
        yield from (file for file in folder.glob(pattern) if file.parent.parent.name != "steps")


def _changed(path: Path) -> float:
    """Return the time of the last write to a run."""
    files = [file for file in (RunDir(path).metrics, RunDir(path).config) if file.is_file()]
    return max(file.stat().st_mtime for file in files)


def summarize_run(run: RunDir) -> RunSummary:
    """Return the state of a run, read from its directory."""
    lines = list(read_metrics(run.metrics))
    steps = [line for line in lines if "eval" not in line and "retention" not in line]
    evaluated = [line for line in lines if line.get("eval")]
    checkpoints = checkpoint_dir.list_checkpoints(run.checkpoints)
    state = run_state(run, has_steps=bool(steps or checkpoints))
    step = int(steps[-1]["step"]) if steps else 0
    return RunSummary(run.path, state, step, _loss(steps), _loss(evaluated), _changed(run.path))


def run_state(run: RunDir, *, has_steps: bool) -> RunState:
    """Return the state of a run; ``has_steps`` is whether a step is recorded or saved."""
    if run.is_finished():
        end = read_end(run)
        return "finished early" if end is not None and end.reason == "finished early" else "finished"
    if run_lock.current_owner(run.lock) is not None:
        return "running"
    return "interrupted" if has_steps else "new"


def _loss(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the loss of the last line; None if there is no line or the loss is not a number."""
    value = lines[-1].get("loss") if lines else None
    return float(value) if isinstance(value, int | float) else None


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics file up to the first incomplete line, which is still being written."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                return
