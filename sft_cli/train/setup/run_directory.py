"""Create and lock a run directory, and leave it in a state that can be resumed."""

import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from sft_cli.config.compose import dump_config
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.run_end import clear_request, mark_extended
from sft_cli.train.setup.run_lock import hold_run_lock
from sft_cli.train.signals import StopRequested, raise_on_signal
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.disks import unused_path


@contextmanager
def locked_run_dir(directory: RunDir, config: Config, *, resumed: bool) -> Iterator[RunDir]:
    """Create or open a run directory and lock it while a session trains in it.

    If the default directory exists, the run gets another name. An error before the first step removes a new directory;
    an interruption prints how to resume.

    Args:
        directory: The directory of the run.
        config: The settings to write to ``config.yaml``.
        resumed: Whether the run exists.

    Raises:
        SftError: Another process trains there, or a new run would overwrite a run.
    """
    if not resumed:
        directory = _create(directory, named=config.run_dir is not None)
    with hold_run_lock(directory.lock):
        if not resumed:
            require_unused_run_dir(directory)  # again: another process may have used it before this one locked it
        mark_extended(directory)
        write_atomic(directory.config, dump_config(config))
        clear_request(directory)  # of an earlier session
        try:
            with raise_on_signal():
                yield directory
        except SftError:
            if not resumed and not directory.metrics.exists():
                shutil.rmtree(directory.path)
            raise
        except KeyboardInterrupt as interruption:
            say(f"stopped   resume with: sft train --resume {shlex.quote(str(directory.path))}")
            number = interruption.signal if isinstance(interruption, StopRequested) else signal.SIGINT
            raise SystemExit(128 + number) from None


def require_unused_run_dir(directory: RunDir) -> None:
    """Refuse a directory that contains a run.

    Raises:
        SftError: It contains a run.
    """
    if directory.config.exists() or directory.metrics.exists() or directory.checkpoints.exists():
        raise SftError(
            where=f"run_dir={directory.path}",
            problem="the directory already contains a run",
            fix=f"resume it: sft train --resume {shlex.quote(str(directory.path))}"
            f"\nrun_dir={shlex.quote(str(unused_path(directory.path)))}",
        )


def _create(directory: RunDir, *, named: bool) -> RunDir:
    """Create the directory of a new run: the one from the config, or the first unused one of the default name."""
    if named:
        directory.path.mkdir(parents=True, exist_ok=True)
        require_unused_run_dir(directory)
        return directory
    directory.path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = directory.path if number == 1 else directory.path.with_name(f"{directory.path.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return RunDir(path)
    raise AssertionError(f"{directory.path} and the names {directory.path.name}-2 to -999 exist")
