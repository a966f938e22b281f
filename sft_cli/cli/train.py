"""``sft train``: find out what to run, prepare the data, and only then load torch."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.loading import without_garbage_collection
from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.console import say
from sft_cli.distributed.rank_env import RankInfo, rank_from_env
from sft_cli.errors import Elsewhere, SftError

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
            help="Resume the run in this directory, with its own settings and those of the command line.",
        ),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Fine-tune a model, or resume a run that was interrupted. run_dir=DIR names the directory of a new run.

    Example: sft train recipe=quickstart, or sft train --resume runs/quickstart-20250101-120000
    """
    from sft_cli.config.model_files.weights import require_weights
    from sft_cli.config.paths import absolute
    from sft_cli.config.rules.check import check_required
    from sft_cli.config.schema.launcher import LauncherKind
    from sft_cli.distributed.launch import launch_processes, resolve_nproc

    place, words, config_dirs = rank_from_env(), overrides or [], config_dir or []
    with _reported_once(place):
        directory, config = _resumed(resume, words, config_dirs) if resume else _new(words, config_dirs)
        if config.launcher.kind is LauncherKind.slurm and "SLURM_JOB_ID" not in os.environ:
            raise _not_in_a_job(resume, words, config_dirs)
        check_required(config)
        require_weights(config.model)
    if place.world_size > 1:
        with without_garbage_collection():
            from sft_cli.train.session import run_distributed_session
        run_distributed_session(absolute(config), directory, resumed=resume is not None)
        return
    with without_garbage_collection():
        from sft_cli.prepare.prepare import prepare_data  # a refused config does not wait for it
    prepared = prepare_data(config)
    if (
        size := resolve_nproc(config.launcher.nproc, config.trainer.device)
    ) > 1:  # prepared before anybody waits for it
        resumed = ["--resume", resume] if resume else []
        raise typer.Exit(launch_processes([*words, *resumed, *_as_options(config_dirs)], size))
    say("loading   torch and the model's configuration")
    with without_garbage_collection():
        from sft_cli.train.session import run_session as train_alone

    train_alone(absolute(config), prepared, directory, resumed=resume is not None)


def _not_in_a_job(run: str | None, words: Sequence[str], config_dirs: Sequence[str]) -> SftError:
    """What to say to who trains with launcher=slurm in a shell of the login node."""
    again = [word for word in words if not word.startswith("launcher=")]
    if run is not None:
        job = Path(run).expanduser() / "job.sbatch"
        here = shlex.join(["sft", "train", "--resume", run, *again, "launcher=local"])
        fix = f"submit it: {shlex.join(['sbatch', str(job)])}" if job.is_file() else f"to train in this shell: {here}"
    else:
        fix = f"submit it: {shlex.join(['sft', 'submit', *words, *_as_options(config_dirs)])}"
    return SftError(
        where="launcher", problem="launcher=slurm trains in a SLURM job, and this shell is in none", fix=fix
    )


@contextmanager
def _reported_once(place: RankInfo) -> Iterator[None]:
    """All processes of a node read the same words and files: only the first of them reports what is wrong."""
    try:
        yield
    except SftError as error:
        if place.local_rank:
            raise Elsewhere(2) from error
        raise


def _as_options(config_dirs: Sequence[str]) -> list[str]:
    """The directories as they were typed."""
    return [word for directory in config_dirs for word in ("-d", directory)]


def _new(overrides: Sequence[str], config_dirs: Sequence[str]) -> "tuple[RunDir, Config]":
    """A new run's directory (not made yet) and config."""
    from sft_cli.config.compose import compose
    from sft_cli.config.paths import default_run_dir
    from sft_cli.run_dir import RunDir
    from sft_cli.train.setup.run_directory import require_unused_run_dir

    config = compose(overrides, config_dirs)
    directory = RunDir(Path(config.run_dir).expanduser() if config.run_dir else default_run_dir(config.run_name))
    if config.run_dir:
        require_unused_run_dir(directory)
    return directory, config


def _resumed(path: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> "tuple[RunDir, Config]":
    """An earlier run's directory, and its config with overrides that do not change what is learned."""
    from sft_cli.config.compose import read_config, with_overrides
    from sft_cli.run_dir import open_run
    from sft_cli.train.checkpoints.resume_check import check_same_rows, check_same_run, continue_command, fixed_settings

    directory = open_run(path, "sft train --resume")
    began = read_config(directory.config)
    finished = directory.adapter.is_dir() or directory.model.is_dir()
    if finished and not overrides:
        say(f"run       {directory.path} is finished: {directory.result}")
        raise typer.Exit
    if finished or any(word.startswith("run_dir=") for word in overrides):
        raise SftError(
            where=path,
            problem="the run is finished" if finished else "run_dir cannot change on resuming",
            fix=continue_command(directory, began, overrides)
            if finished
            else "leave run_dir out, or move the directory",
        )
    config = with_overrides(began, overrides, config_dirs) if overrides else began
    check_same_run(directory.path, fixed_settings(began), fixed_settings(config))
    check_same_rows(directory, began, config)
    return directory, config
