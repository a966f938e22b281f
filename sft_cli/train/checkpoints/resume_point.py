"""The checkpoint that a session resumes from, also if the length of the run has changed."""

from pathlib import Path

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.checkpoints.checkpoint import read_progress
from sft_cli.train.checkpoints.resume_length import continue_command
from sft_cli.train.optimizers.lr_schedule import RunLength, lr_factors, planned_length


def fits_length(checkpoint: Path, trainer: TrainerConfig, num_steps: int) -> RunLength | None:
    """Return the length of a run of ``num_steps`` steps that continues from a checkpoint; None if it cannot.

    It can if every step of the checkpoint had the learning rate that it has in a run of that length. The warm-up keeps
    its number of steps.
    """
    progress, length = read_progress(checkpoint)
    new = RunLength(num_steps, length.warmup_steps)
    if progress.step > num_steps:
        return None
    same = new == length or lr_factors(trainer, new, progress.step) == lr_factors(trainer, length, progress.step)
    return new if same else None


def find_resume_point(root: Path, trainer: TrainerConfig, num_steps: int) -> tuple[Path | None, RunLength]:
    """Return the newest valid checkpoint that fits the length of the run, or None, and the length.

    Args:
        root: The directory of checkpoints.
        trainer: The settings of the training loop.
        num_steps: Number of steps of the whole run.
    """
    newest = checkpoint_dir.latest_valid(root)
    if newest is None:
        return None, planned_length(trainer, num_steps)
    earlier = [path for path in checkpoint_dir.list_checkpoints(root) if path.name != newest.name]
    for checkpoint in (newest, *reversed(earlier)):
        if checkpoint != newest and checkpoint_dir.find_fault(checkpoint) is not None:
            continue
        if (length := fits_length(checkpoint, trainer, num_steps)) is not None:
            _describe_change(newest, checkpoint, length)
            return checkpoint, length
    return None, planned_length(trainer, num_steps)


def check_run_length(run: RunDir, config: Config, num_steps: int) -> None:
    """Check, before anything is written, that a resumed run can get the length of its config.

    Args:
        run: The run.
        config: Its settings from now on.
        num_steps: Number of steps of the whole run.

    Raises:
        SftError: It is shorter than the steps done, or the learning rate of all saved steps depends on the old length.
    """
    saved = checkpoint_dir.list_checkpoints(run.checkpoints)
    readable = [path for path in saved if (path / checkpoint_dir.STATE_FILE).is_file()]
    if not readable or any(fits_length(path, config.trainer, num_steps) for path in readable):
        return
    trainer, done = config.trainer, checkpoint_dir.checkpoint_step(readable[-1])
    length = f"trainer.max_steps={trainer.max_steps}" if trainer.max_steps else f"trainer.epochs={trainer.epochs}"
    if done >= num_steps:
        problem = f"{length} plans {num_steps:,} steps, and the run has done {done:,}"
        raise SftError(where=str(run.path), problem=problem, fix=f"plan more, such as trainer.max_steps={2 * done}")
    fix = f"{continue_command(run, config, [length])}  # a new run that starts from this one"
    problem = (
        f"{length} is longer, but the learning rate of all saved steps depends on the old length"
        f" (trainer.schedule={trainer.schedule.value}): no checkpoint is from before the decay"
    )
    raise SftError(where=str(run.path), problem=problem, fix=fix)


def _describe_change(newest: Path, chosen: Path, length: RunLength) -> None:
    """Print what happens to the run if its length changed."""
    _, before = read_progress(chosen)
    if before == length:
        return
    warmup = f"; warm-up {length.warmup_steps:,} as before" if length.warmup_steps else ""
    say(f"length    {length.num_steps:,} steps instead of {before.num_steps:,}{warmup}")
    first, last = checkpoint_dir.checkpoint_step(chosen) + 1, checkpoint_dir.checkpoint_step(newest)
    if first <= last:
        say(f"          steps {first:,} to {last:,} are trained again: their learning rate was already decaying")
