"""Check the directories a run writes to and the port it listens on."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from sft_cli.check.results import CheckResult, CheckStatus, fail, ok
from sft_cli.config.paths import cache_home, default_run_dir
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import Auto, LauncherKind
from sft_cli.utils.home import expand_home

HOME = "SFT_HOME"
PORT = 29500
"""Default port of torchrun's rendezvous, unless MASTER_PORT sets another."""


def world_size(config: Config, devices: int = 1) -> int:
    """Return the number of processes that train the run together.

    Args:
        config: The config of the run.
        devices: GPUs of this machine, for ``launcher.nproc=auto``.
    """
    launcher = config.launcher
    if launcher.kind is LauncherKind.slurm and launcher.gpus:
        return launcher.nodes * launcher.gpus
    per_node = max(1, devices) if isinstance(launcher.nproc, Auto) else launcher.nproc
    return per_node * (launcher.nodes if launcher.kind is LauncherKind.slurm else 1)


def run_directory(config: Config) -> Path:
    """Return the directory of the run, or its default."""
    return expand_home(config.run_dir) if config.run_dir else default_run_dir(config.run_name)


def write_problem(directory: Path) -> str | None:
    """Return why a directory, which may not exist yet, is not writable; None if it is."""
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    try:
        with TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return f"{existing}: {error.strerror}"


def path_checks(config: Config, environment: Mapping[str, str] = os.environ) -> Iterator[CheckResult]:
    """Yield checks of the permissions of run directory and SFT_HOME, and of the rendezvous port."""
    for name, directory, key in (
        ("run_dir", run_directory(config), "run_dir=DIR that you may write to"),
        (HOME, cache_home(), "export SFT_HOME=DIR that you may write to"),
    ):
        problem = write_problem(directory)
        if problem is None:
            yield ok(name, f"{directory} can be written to")
        else:
            yield fail(name, f"nothing can be written: {problem}", f"choose {key}, or change its permissions")
    if world_size(config) > 1 and config.launcher.kind is LauncherKind.local:
        yield port_check(environment.get("MASTER_PORT", str(PORT)))


@contextmanager
def temporary_home_if_unwritable(places: Sequence[CheckResult]) -> Iterator[None]:
    """Set SFT_HOME to a temporary directory within the block if the real one is not writable."""
    if not any(line.name == HOME and line.status is CheckStatus.fail for line in places):
        yield
        return
    before = os.environ.get(HOME)
    with TemporaryDirectory(prefix="sft-check-") as folder:
        os.environ[HOME] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[HOME]
            else:
                os.environ[HOME] = before


def port_check(text: str) -> CheckResult:
    """Return the check that the rendezvous port is free on this machine."""
    fix = "export MASTER_PORT=29501, or any other free port from 1024 to 65535"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        return fail("port", f"MASTER_PORT={text} is not a port", fix)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            server.bind(("127.0.0.1", int(text)))
            return ok("port", f"{text} is free for the processes of the run")
    return fail("port", f"{text} is taken on this machine", fix)
