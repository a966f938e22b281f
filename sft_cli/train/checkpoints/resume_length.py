"""Check whether a run may get another length, and how to train further where it may not; without torch."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import Schedule
from sft_cli.config.validate import format_value
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints.resume_check import LENGTH_KEYS, changed_settings, flatten_config
from sft_cli.train.run_end import read_end

EXTENDABLE = (Schedule.constant, Schedule.inverse_sqrt, Schedule.wsd)
"""Schedules under which a longer run takes the same first steps; wsd until its decay."""


def check_trains_further(run: RunDir, old: Config, new: Config, words: Sequence[str]) -> None:
    """Refuse to resume a finished run that has no step left to train.

    Args:
        run: The run.
        old: The settings it began with.
        new: Its settings from now on.
        words: The KEY=VALUE settings as typed.

    Raises:
        SftError: The run did all steps that the new settings plan, as far as the settings show.
    """
    changed, trainer = changed_length(old, new), new.trainer
    if "trainer.epochs" in changed and trainer.max_steps is not None:
        length, problem = f"trainer.epochs={trainer.epochs}", "trainer.epochs has no effect on this run"
        problem = f"{problem}, which stops after trainer.max_steps={trainer.max_steps}"
        raise SftError(where=length, problem=problem, fix=f"add trainer.max_steps=null to {length}")
    end = read_end(run)
    if not run.is_finished() or changed or (end is not None and end.step < end.planned_steps):
        return
    problem = "the run is finished, all its steps are done; further training needs more epochs or steps"
    raise SftError(where=str(run.path), problem=problem, fix=longer_command(run, old, words))


def changed_length(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of each key of the run's length that differs."""
    before, now = ({key: flatten_config(config)[key] for key in LENGTH_KEYS} for config in (old, new))
    return changed_settings(before, now)


def check_length_change(run: RunDir, old: Config, new: Config, words: Sequence[str]) -> None:
    """Refuse another length under a schedule that spans the whole run, if steps were trained under it.

    Args:
        run: The run.
        old: The settings it began with.
        new: Its settings from now on.
        words: The KEY=VALUE settings as typed.

    Raises:
        SftError: The length cannot change; the fix is a new run, or for a run that is not finished, to end it now.
    """
    changed, schedule = changed_length(old, new), old.trainer.schedule
    if not changed or schedule in EXTENDABLE or not any(run.checkpoints.glob("step-*")):
        return
    pairs = (f"{key} was {format_value(before)}, is now {format_value(now)}" for key, (before, now) in changed.items())
    problem = (
        f"the length of the run cannot change, the learning rates of trainer.schedule={schedule.value} depend on it:"
        f" {'; '.join(pairs)}"
    )
    path = shlex.quote(str(run.path))
    own = f"sft train --resume {path}  # as planned\nsft stop {path} --export  # ends it now, with its best weights"
    fix = f"a new run that starts from this one: {continue_command(run, old, words)}" if run.is_finished() else own
    raise SftError(where=str(run.path), problem=problem, fix=fix)


def longer_command(run: RunDir, config: Config, words: Sequence[str] = ()) -> str:
    """Return the command that trains further from a finished run, with a comment.

    Args:
        run: The run.
        config: Its settings.
        words: Further KEY=VALUE settings.
    """
    trainer, end = config.trainer, read_end(run)
    early = end is not None and end.step < end.planned_steps
    if not early and trainer.schedule is not Schedule.constant:
        return f"{continue_command(run, config, words)}  # trains longer, in a new run"
    if trainer.max_steps is not None:
        length = f"trainer.max_steps={trainer.max_steps * (1 if early else 2)}"
    else:
        length = f"trainer.epochs={trainer.epochs if early else 2 * int(trainer.epochs)}"
    comment = f"trains the remaining steps, to {end.planned_steps:,}" if end is not None and early else "trains longer"
    patience = ["trainer.patience=null"] if end is not None and end.reason == "patience" else []
    return f"{shlex.join(['sft', 'train', '--resume', str(run.path), length, *patience, *words])}  # {comment}"


def continue_command(run: RunDir, config: Config, words: Sequence[str]) -> str:
    """Return the command that trains on from a finished run in a new run; ``words`` are further KEY=VALUE settings."""
    config_file = shlex.quote(str(run.path / "config.yaml"))
    start = f"model.path={run.model}" if config.adapter.kind in WHOLE else f"adapter.start_from={run.path}"
    number = next(number for number in itertools.count(2) if not Path(f"{run.path}-{number}").exists())
    settings = [start, f"run_dir={run.path}-{number}", *words]
    return f"sft train recipe={config_file} {' '.join(map(shlex.quote, settings))}"
