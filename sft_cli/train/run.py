"""`sft train`: find out what to run, prepare the data, and only then load torch."""

import gc
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sft_cli.config.compose import compose, load, with_overrides
from sft_cli.config.model_files.weights import refuse_without_weights
from sft_cli.config.overrides.parse import split_off
from sft_cli.config.paths import absolute, default_run_dir
from sft_cli.config.rules.check import required
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import LauncherKind
from sft_cli.console import say
from sft_cli.distributed.launch import processes, train_together
from sft_cli.distributed.rank_env import Place, place_of
from sft_cli.errors import Elsewhere, SftError
from sft_cli.run_dir import RunDir, open_run
from sft_cli.train.checkpoints.resume_check import refuse_other, settings
from sft_cli.train.checkpoints.resuming import as_new, refuse_other_rows
from sft_cli.train.setup.run_directory import refuse_taken


def train_command(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Body of ``sft train``: a new run, or ``run=DIR`` to resume one; one of its processes, or what starts them."""
    place = place_of()
    with _told_once(place):
        own, rest = split_off(overrides, ("run",))
        resumed = "run" in own
        directory, config = _resumed(own["run"], rest, config_dirs) if resumed else _new(rest, config_dirs)
        if config.launcher.kind is LauncherKind.slurm and "SLURM_JOB_ID" not in os.environ:
            raise _not_in_a_job(own.get("run"), rest, config_dirs)
        required(config)
        refuse_without_weights(config.model)
    if place.size > 1:
        with uncollected():
            from sft_cli.train.session import train_with_others
        train_with_others(absolute(config), directory, resumed=resumed)
        return
    with uncollected():
        from sft_cli.prepare.prepare import prepare  # a refused config does not wait for it
    prepared = prepare(config)
    if (size := processes(config.launcher.nproc, config.trainer.device)) > 1:  # prepared before anybody waits for it
        sys.exit(train_together([*overrides, *_as_options(config_dirs)], size))
    say("loading   torch and the model's configuration")
    with uncollected():
        from sft_cli.train.session import train

    train(absolute(config), prepared, directory, resumed=resumed)


def _not_in_a_job(run: str | None, words: Sequence[str], config_dirs: Sequence[str]) -> SftError:
    """What to say to who trains with launcher=slurm in a shell of the login node."""
    again = [word for word in words if not word.startswith("launcher=")]
    if run is not None:
        job = Path(run).expanduser() / "job.sbatch"
        here = shlex.join(["sft", "train", f"run={run}", *again, "launcher=local"])
        fix = f"submit it: {shlex.join(['sbatch', str(job)])}" if job.is_file() else f"to train in this shell: {here}"
    else:
        typed = [*words, *_as_options(config_dirs)]
        fix = f"submit it: {shlex.join(['python', '-m', 'sft_cli.slurm', *typed])}"
    return SftError(
        where="launcher", problem="launcher=slurm trains in a SLURM job, and this shell is in none", fix=fix
    )


@contextmanager
def _told_once(place: Place) -> Iterator[None]:
    """All processes of a node read the same words and files: the first of them tells what is wrong."""
    try:
        yield
    except SftError as error:
        if place.local_rank:
            raise Elsewhere(2) from error
        raise


def _as_options(config_dirs: Sequence[str]) -> list[str]:
    """The directories as they were typed."""
    return [word for directory in config_dirs for word in ("-d", directory)]


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without collecting garbage: modules make a million objects and leave nothing behind.

    Measured for torch, transformers and PEFT together: 3.3 instead of 4.0 processor seconds on a busy machine.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _new(overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[RunDir, Config]:
    """A new run's directory (not made yet) and config."""
    config = compose(overrides, config_dirs)
    directory = RunDir(Path(config.run_dir).expanduser() if config.run_dir else default_run_dir(config.run_name))
    if config.run_dir:
        refuse_taken(directory)
    return directory, config


def _resumed(path: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[RunDir, Config]:
    """An earlier run's directory, and its config with overrides that do not change what is learned."""
    directory = open_run(path)
    began = load(directory.config)
    finished = directory.adapter.is_dir() or directory.model.is_dir()
    if finished and not overrides:
        say(f"run       {directory.path} is finished: {directory.result}")
        raise SystemExit(0)
    if finished or any(word.startswith("run_dir=") for word in overrides):
        raise SftError(
            where=f"run={path}",
            problem="the run is finished" if finished else "run_dir cannot change on resuming",
            fix=as_new(directory, began, overrides) if finished else "leave run_dir out, or move the directory",
        )
    config = with_overrides(began, overrides, config_dirs) if overrides else began
    refuse_other(directory.path, settings(began), settings(config))
    refuse_other_rows(directory, began, config)
    return directory, config
