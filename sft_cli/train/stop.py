"""``sft stop``: ask a run to stop after its current step, or end a stopped run with its best weights so far."""

import shlex
import time
from pathlib import Path

from sft_cli.config.compose import read_config
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.progress import clear_progress, status
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.next_commands import print_stopped
from sft_cli.train.run_end import RunEnd, StopRequest, clear_request, read_end, request_stop, requested_stop, write_end
from sft_cli.train.setup import run_lock

POLL_SECONDS = 0.2


def stop_run(run: RunDir, *, export: bool, wait: bool) -> None:
    """Ask a running run to stop, and wait for it; or export the best weights of a run that was stopped.

    Args:
        run: The run directory.
        export: Whether the run ends now, with its best weights exported; otherwise it can be resumed.
        wait: Whether to wait until the run has stopped.

    Raises:
        SftError: The run does not run, and there is nothing to export; or it ended with an error.
    """
    owner = run_lock.current_owner(run.lock)
    if owner is None:
        if not export or run.is_finished():
            raise _not_running(run)
        _export_stopped(run)
        return
    request_stop(run, StopRequest.finish if export else StopRequest.save)
    then = "exports its best weights" if export else "stops"
    say(f"stop      {owner} finishes its step, saves and {then}")
    if wait:
        _wait(run, owner)
        _print_outcome(run)


def _wait(run: RunDir, owner: run_lock.LockOwner) -> None:
    """Wait until no process trains in the run directory."""
    watch = run_lock.OwnerWatch(run.lock)
    status(f"waiting until the run stops (Ctrl-C stops waiting): {run.path}")
    while run_lock.current_owner(run.lock) == owner:
        time.sleep(POLL_SECONDS)
        if watch.is_stale():
            clear_request(run)
            raise SftError(
                where=str(run.path),
                problem=f"{owner} has not answered for {run_lock.STALE_SECONDS:.0f} s, so it is not running any more",
                fix=f"sft train --resume {shlex.quote(str(run.path))}",
            )
    clear_progress()


def _print_outcome(run: RunDir) -> None:
    """Print how a run ended that was asked to stop.

    Raises:
        SftError: It ended without answering the request.
    """
    path = shlex.quote(str(run.path))
    if run.is_finished():
        end = read_end(run)
        steps = f" after step {end.step:,} of {end.planned_steps:,}" if end is not None else ""
        say(f"finished {steps}: {run.result}")
    elif requested_stop(run) is not StopRequest.none:
        clear_request(run)
        raise SftError(
            where=str(run.path),
            problem="the run ended before it saw the request",
            fix=f"see the end of {run.console}, then resume it: sft train --resume {path}",
        )
    else:
        step = checkpoint_dir.checkpoint_step(checkpoint_dir.list_checkpoints(run.checkpoints)[-1])
        print_stopped(run, step)


def _not_running(run: RunDir) -> SftError:
    """Return the error for a run that no process trains."""
    path, where = shlex.quote(str(run.path)), str(run.path)
    if run.is_finished():
        return SftError(where=where, problem="the run is not running: it is finished", fix=f"sft chat {path}")
    resume = f"sft train --resume {path}"
    steps = checkpoint_dir.list_checkpoints(run.checkpoints)
    if not steps:
        return SftError(where=where, problem="the run is not running, and no step is saved", fix=resume)
    problem = f"the run is not running: it stopped after step {checkpoint_dir.checkpoint_step(steps[-1])}"
    return SftError(where=where, problem=problem, fix=f"{resume}\nsft stop {path} --export")


def _export_stopped(run: RunDir) -> None:
    """Export the best weights of a stopped run, so that it is finished.

    Raises:
        SftError: No step is saved.
    """
    with run_lock.hold_run_lock(run.lock):
        newest = checkpoint_dir.latest_valid(run.checkpoints)
        if newest is None:
            raise _not_running(run)
        config = read_config(run.config)
        end = _end_now(config, newest)
        say(f"export    the weights of step {end.exported_step}")
        from sft_cli.train.checkpoints.saved_step import export_checkpoint

        export_checkpoint(config, newest.with_name(f"step-{end.exported_step}"), run)
        write_end(run, end)
    say(f"finished  early after step {end.step:,} of {end.planned_steps:,}: {run.result}")
    say(f"next      sft chat {shlex.quote(str(run.path))}")


def _end_now(config: Config, newest: Path) -> RunEnd:
    """Return the end of a run that ends at its newest checkpoint."""
    from sft_cli.train.checkpoints.checkpoint import read_progress

    progress, length = read_progress(newest)
    return progress.end(config.trainer, length.num_steps)
