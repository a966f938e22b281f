"""``sft train``: check the command line, prepare the data, and only then load torch."""

import itertools
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.loading import slow_imports
from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.cli.ranks import reported_once
from sft_cli.console import be_quiet, say
from sft_cli.distributed.rank_env import rank_from_env
from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

if TYPE_CHECKING:
    from sft_cli.config.schema.config import Config
    from sft_cli.run_dir import RunDir


def train(
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            autocompletion=complete_run,
            help="Resume the run in this directory, with its settings and those of the command line.",
        ),
    ] = None,
    config_dir: ConfigDirs = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only warnings, errors and the last result; console.log has all.")
    ] = False,
) -> None:
    """Fine-tune a model, or resume a run that was interrupted. run_dir=DIR names the directory of a new run.

    Example: sft train recipe=quickstart, or sft train --resume runs/quickstart-20250101-120000
    """
    from sft_cli.config.model_files.weights import require_weights
    from sft_cli.config.paths import absolute
    from sft_cli.config.rules.check import check_required
    from sft_cli.config.schema.launcher import LauncherKind
    from sft_cli.distributed.launch import launch_processes, resolve_nproc

    rank, words, config_dirs = rank_from_env(), overrides or [], config_dir or []
    if quiet:
        be_quiet()
    with reported_once(rank):
        directory, config = _resumed(resume, words, config_dirs) if resume else _new(words, config_dirs)
        if config.launcher.kind is LauncherKind.slurm and "SLURM_JOB_ID" not in os.environ:
            raise _not_in_a_job(resume, words, config_dirs)
        check_required(config)
        require_weights(config.model)
    if rank.world_size > 1:
        with slow_imports():
            from sft_cli.train.session import run_distributed_session
        run_distributed_session(absolute(config), directory, resumed=resume is not None)
        return
    with slow_imports():
        from sft_cli.prepare.prepare import prepare_data  # after the checks, which are fast
    prepared = prepare_data(config)
    if (
        size := resolve_nproc(config.launcher.nproc, config.trainer.device)
    ) > 1:  # the data are prepared before the processes start
        resumed = ["--resume", resume] if resume else []
        raise typer.Exit(
            launch_processes(["train", *words, *resumed, *_as_options(config_dirs), *["--quiet"] * quiet], size)
        )
    say("loading   torch and the model's configuration")
    with slow_imports():
        from sft_cli.train.session import run_session as train_alone

    train_alone(absolute(config), prepared, directory, resumed=resume is not None)


def _not_in_a_job(run: str | None, words: Sequence[str], config_dirs: Sequence[str]) -> SftError:
    """Return the error for ``sft train`` with launcher=slurm outside a SLURM job."""
    others = [word for word in words if not word.startswith("launcher=")]
    if run is not None:
        job = expand_home(run) / "job.sbatch"
        local = shlex.join(["sft", "train", "--resume", run, *others, "launcher=local"])
        fix = f"submit it: {shlex.join(['sbatch', str(job)])}" if job.is_file() else f"to train in this shell: {local}"
    else:
        fix = f"submit it: {shlex.join(['sft', 'submit', *words, *_as_options(config_dirs)])}"
    return SftError(
        where="launcher", problem="launcher=slurm trains in a SLURM job, and this shell is not in one", fix=fix
    )


def _as_options(config_dirs: Sequence[str]) -> list[str]:
    """Return the directories as ``-d`` options."""
    return [word for directory in config_dirs for word in ("-d", directory)]


def _new(overrides: Sequence[str], config_dirs: Sequence[str]) -> "tuple[RunDir, Config]":
    """Return the directory (not created yet) and the config of a new run."""
    from sft_cli.config.compose import compose
    from sft_cli.config.paths import default_run_dir
    from sft_cli.run_dir import RunDir

    config = compose(overrides, config_dirs)
    directory = RunDir(expand_home(config.run_dir) if config.run_dir else default_run_dir(config.run_name))
    if config.run_dir:
        from sft_cli.train.setup.run_directory import require_unused_run_dir  # loads torch

        require_unused_run_dir(directory)
    return directory, config


def _resumed(path: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> "tuple[RunDir, Config]":
    """Return the directory of an earlier run, and its config with overrides that do not change the trained model."""
    from sft_cli.config.compose import read_config, with_overrides
    from sft_cli.run_dir import open_run
    from sft_cli.train.checkpoints.resume_check import check_same_rows, check_same_run, fixed_settings
    from sft_cli.train.checkpoints.resume_length import check_length_change, check_trains_further

    directory = open_run(path, "sft train --resume")
    original = read_config(directory.config)
    if directory.is_finished() and not overrides:
        _print_finished(directory, original)
        raise typer.Exit
    if any(word.startswith("run_dir=") for word in overrides):
        problem, fix = "run_dir cannot change on resuming", "remove run_dir, or move the directory"
        raise SftError(where=path, problem=problem, fix=fix)
    config = with_overrides(original, overrides, config_dirs) if overrides else original
    check_trains_further(directory, original, config, overrides)
    check_same_run(directory.path, fixed_settings(original), fixed_settings(config))
    check_length_change(directory, original, config, overrides)
    check_same_rows(directory, original, config)
    return directory, config


def _print_finished(directory: "RunDir", config: "Config") -> None:
    """Print that a run is finished, and the commands that can be run now."""
    from sft_cli.train.checkpoints.resume_length import longer_command
    from sft_cli.train.next_commands import has_held_out_rows, next_commands, print_next_commands
    from sft_cli.train.run_end import read_end

    end = read_end(directory)
    early = "" if end is None or end.reason == "completed" else f" after step {end.step} of {end.planned_steps}"
    say(f"run       {directory.path} is finished{early}: {directory.result}")
    commands = next_commands(config, directory, held_out=has_held_out_rows(directory))
    print_next_commands(itertools.chain(commands, [longer_command(directory, config)]))
