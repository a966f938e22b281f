"""The layout of a run directory."""

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

SWEEP_RECORD = "sweep.json"
"""File in the directory of a sweep."""
MODEL_RECORD = "model.json"
"""File in a directory of results that belong to no run: the model that was evaluated."""
TRAINS_FURTHER = "extended"
"""Reason in end.json of a run that trains further; its adapter/ or model/ is still that of the earlier end."""
MAX_MEMBERS = 8
"""Runs of a sweep that an error names."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of the files in a run directory.

    ::

        config.yaml        the resolved config
        environment.json   versions and machine
        console.log        the command lines and their output
        report.html        the page of the run, written when it ends or is stopped
        data.json          {prepared_dir, fingerprint}
        manifest.json      copy of the prepared data's manifest (stop tokens, counts, licences)
        golden.json        copy of the golden prompts
        tokenizer/         the tokenizer with its template, as used for training
        probes.json        [{where, input_ids, labels}]: held-out rows on which a merged model is compared
        metrics.jsonl      one line per step; evaluation lines have "eval": true, those of probes "retention": {…}
        retention.json     scores of the probes of trainer.retention on the base model
        spikes.jsonl       steps with a loss spike or a loss that was not finite, with their rows
        before.json        scores and answers of the base model (eval.compare_after_training)
        after.json         the same for the trained model
        samples.jsonl      answers generated during training
        checkpoints/       step-N directories
        end.json           how the run ended: {step, planned_steps, exported_step, reason}
        stop.json          a request of sft stop that the run has not answered yet
        adapter/           the trained adapter with the tokenizer (LoRA)
        model/             the trained model with the tokenizer (full fine-tuning)
        tensorboard/       the values of metrics.jsonl, where tensorboard is installed
        wandb/, trackio/, mlflow.db   the same for other trackers of tracking.report_to
        eval/              reports: heldout.json, others named by their rows and settings
        steps/             step-N: run directories of single saved steps, written by --step N
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and machine."""
        return self.path / "environment.json"

    @property
    def console(self) -> Path:
        """The command lines of the run's sessions and their output."""
        return self.path / "console.log"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def data(self) -> Path:
        """Path and fingerprint of the prepared data."""
        return self.path / "data.json"

    @property
    def manifest(self) -> Path:
        """Copy of the prepared data's manifest."""
        return self.path / "manifest.json"

    @property
    def golden(self) -> Path:
        """Copy of the golden prompts."""
        return self.path / "golden.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the data was prepared with."""
        return self.path / "tokenizer"

    @property
    def probes(self) -> Path:
        """Rows for comparing a merged model with the adapter."""
        return self.path / "probes.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per step, evaluation, and measurement of the retention probes."""
        return self.path / "metrics.jsonl"

    @property
    def retention(self) -> Path:
        """Scores of the retention probes on the base model."""
        return self.path / "retention.json"

    @property
    def samples(self) -> Path:
        """Answers generated during training, one JSON line each."""
        return self.path / "samples.jsonl"

    @property
    def spikes(self) -> Path:
        """Steps with a loss spike or a loss that was not finite, one JSON line each."""
        return self.path / "spikes.jsonl"

    @property
    def base_scores(self) -> Path:
        """Scores and answers of the base model."""
        return self.path / "before.json"

    @property
    def tuned_scores(self) -> Path:
        """Scores and answers of the trained model, where it was compared with the base."""
        return self.path / "after.json"

    @property
    def checkpoints(self) -> Path:
        """Directory of step-N checkpoints."""
        return self.path / "checkpoints"

    @property
    def end(self) -> Path:
        """How the run ended."""
        return self.path / "end.json"

    @property
    def stop_request(self) -> Path:
        """The request to stop that ``sft stop`` writes and the run removes."""
        return self.path / "stop.json"

    @property
    def lock(self) -> Path:
        """The file that the process that trains here locks; it names that process."""
        return self.path / ".lock"

    @property
    def adapter(self) -> Path:
        """The trained adapter."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The trained model of a full fine-tuning."""
        return self.path / "model"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files with the values of metrics.jsonl, where tensorboard is installed."""
        return self.path / "tensorboard"

    @property
    def eval(self) -> Path:
        """Directory of evaluation reports."""
        return self.path / "eval"

    @property
    def result(self) -> Path:
        """The trained adapter/ or model/.

        Raises:
            SftError: The run has not finished.
        """
        for directory in (self.adapter, self.model):
            if directory.is_dir():
                return directory
        raise SftError(
            where=str(self.path),
            problem="the run has no trained adapter or model yet",
            fix=f"finish it: sft train --resume {shlex.quote(str(self.path))}" + self._step_hint(),
        )

    def is_finished(self) -> bool:
        """Return whether training ended and was exported, and no later session trains further."""
        if not (self.adapter.is_dir() or self.model.is_dir()):
            return False
        return not self.end.is_file() or self.read_json(self.end)["reason"] != TRAINS_FURTHER

    def _step_hint(self) -> str:
        """Return the end of a fix that names the newest saved step; an empty text without one."""
        steps = [int(place.name.removeprefix("step-")) for place in self.checkpoints.glob("step-*")]
        return f"; or use the newest saved step: --step {max(steps)}" if steps else ""

    def read_json(self, file: Path) -> Any:
        """Return the parsed content of a JSON file of the run."""
        return json.loads(file.read_text(encoding="utf-8"))


def open_run(path: str, command: str) -> RunDir:
    """Return a run directory, after checking that it was written by sft_cli.

    Args:
        path: The path as typed.
        command: Words typed before it, such as ``sft eval``, for the fix.

    Raises:
        SftError: The path is not a run directory.
    """
    run = RunDir(expand_home(path))
    if not run.config.is_file():
        raise _not_a_run(path, run.path, command)
    return run


def open_result_dir(path: str, command: str) -> RunDir:
    """Return a run directory, or a directory with the results of a model of no run.

    Args:
        path: The path as typed.
        command: Words typed before it, for the fix.

    Raises:
        SftError: The path is neither.
    """
    directory = RunDir(expand_home(path))
    return directory if (directory.path / MODEL_RECORD).is_file() else open_run(path, command)


def default_results_dir(name: str) -> Path:
    """Return ``evals/<name>`` below ``$SFT_HOME`` if set, else below the working directory."""
    return Path(os.environ.get("SFT_HOME") or ".") / "evals" / name


def _not_a_run(typed: str, path: Path, command: str) -> SftError:
    """Return the error for a path that is not a run directory, but may be inside one, or a merged model."""
    if (path / SWEEP_RECORD).is_file():
        return _is_a_sweep(typed, path, command)
    parent_run = next((parent for parent in path.parents if (parent / "config.yaml").is_file()), None)
    model = path.is_dir() and (path / "config.json").is_file()
    problem = "this is a model, not a run directory" if model else "not a run directory (it has no config.yaml)"
    if not path.exists():
        problem = "there is no such directory"
    if parent_run is not None and path.exists():
        step = re.fullmatch(r"step-(\d+)", path.name) if path.parent.name == "checkpoints" else None
        problem = f"this is {'a saved step' if step else 'a part'} of the run {parent_run}"
        fix = f"{command} {shlex.quote(str(parent_run))}" + (f" --step {step[1]}" if step else "")
    elif not path.exists() and (results := default_results_dir(path.name)).is_dir():
        fix = f"{command} {shlex.quote(str(results))}"
    elif newest := [name for name in latest_runs(path.parent) or latest_runs() if name not in command.split()]:
        note = ", the run of the merged model" if model else ""
        fix = f"{command} {shlex.quote(newest[0])}{note} (the newest runs: {', '.join(newest)})"
    else:
        fix = f"{command} RUN, the directory that sft train printed"
    return SftError(where=typed, problem=problem, fix=fix)


def _is_a_sweep(typed: str, path: Path, command: str) -> SftError:
    """Return the error for the directory of a sweep; its fix names the members."""
    runs = [RunDir(file.parent) for file in sorted(path.glob("*/config.yaml"))]
    finished = [run for run in runs if run.is_finished()]
    commands = [f"{command} {shlex.quote(str(run.path))}" for run in finished[:MAX_MEMBERS]]
    if not commands or command.endswith("--resume"):
        commands = [f"sft sweep --resume {shlex.quote(str(path))}"]
    problem = f"this is a sweep of {len(runs)} runs, {len(finished)} of them finished; name one of its runs"
    return SftError(where=typed, problem=problem, fix="\n".join(commands))


def run_folders() -> list[Path]:
    """Return the default folders of runs."""
    home = Path(os.environ.get("SFT_HOME") or ".") / "runs"
    return [home] if home.absolute() == Path("runs").absolute() else [home, Path("runs")]


def latest_runs(folder: Path | None = None, number: int = 3) -> list[str]:
    """Return the newest run directories of a folder, newest first; by default, of the default folders."""
    folders = [folder] if folder else run_folders()
    times = {file.parent: file.stat().st_mtime for place in folders for file in place.glob("*/config.yaml")}
    return [str(path) for path in sorted(times, key=lambda path: -times[path])[:number]]
