"""A run directory belongs to one process at a time: it is made, locked, and left in a state that can be resumed."""

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
from sft_cli.train.setup.run_lock import held
from sft_cli.train.signals import Asked, asked_to_stop
from sft_cli.utils.atomic import write_atomic


@contextmanager
def claimed(directory: RunDir, config: Config, *, resumed: bool) -> Iterator[RunDir]:
    """Hold a run directory while a session trains in it.

    A new directory with a default name gets another name where that one is taken. A mistake found before the first
    step removes a new directory again; an interruption says how to go on.

    Args:
        directory: Where the run is to be, or lies.
        config: What ``config.yaml`` shall hold.
        resumed: Whether the run lies there already.

    Raises:
        SftError: Another process trains there, or it holds a run already.
    """
    if not resumed:
        directory = _made(directory, named=config.run_dir is not None)
    with held(directory.path / ".lock"):
        if not resumed:
            refuse_taken(directory)  # once more: another process may have held it meanwhile
        write_atomic(directory.config, dump_config(config))
        try:
            with asked_to_stop():
                yield directory
        except SftError:
            if not resumed and not directory.metrics.exists():
                shutil.rmtree(directory.path)
            raise
        except KeyboardInterrupt as interruption:
            say(f"stopped   resume with: sft train --resume {shlex.quote(str(directory.path))}")
            number = interruption.signal if isinstance(interruption, Asked) else signal.SIGINT
            raise SystemExit(128 + number) from None


def refuse_taken(directory: RunDir) -> None:
    """Refuse to begin a run where one lies.

    Raises:
        SftError: There is one.
    """
    if directory.config.exists() or directory.metrics.exists() or directory.checkpoints.exists():
        raise SftError(
            where=f"run_dir={directory.path}",
            problem="it holds a run already",
            fix=f"resume it with sft train --resume {shlex.quote(str(directory.path))}, or choose another run_dir",
        )


def _made(directory: RunDir, *, named: bool) -> RunDir:
    """The directory of a new run: the one that was named, or the first free one of the default name."""
    if named:
        directory.path.mkdir(parents=True, exist_ok=True)
        refuse_taken(directory)
        return directory
    directory.path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = directory.path if number == 1 else directory.path.with_name(f"{directory.path.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return RunDir(path)
    raise AssertionError(f"{directory.path} has a thousand namesakes")
