"""Start the processes of a run on this machine and exit with the code of the first one that failed.

torchrun could start them, but it always exits with 1, prints a summary of its own after the error message, and kills
processes that are still saving 30 seconds after a signal.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

from sft_cli.config.schema.launcher import Auto
from sft_cli.config.schema.trainer import Device
from sft_cli.errors import SftError
from sft_cli.utils.processes import signals_handled_by, terminate_with_parent

GRACE_SECONDS = 10.0
"""Seconds in which the other processes may end by themselves after one failed; then they are killed."""
POLL_SECONDS = 0.05


def resolve_nproc(nproc: Auto | int, device: Device) -> int:
    """The number of processes for ``launcher.nproc``: ``auto`` is one per GPU, and one on a machine without GPUs."""
    return nproc if isinstance(nproc, int) else max(1, count_gpus()) if device is not Device.cpu else 1


def count_gpus() -> int:
    """The number of CUDA devices that a process would see, from nvidia-smi: importing torch takes a second."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def launch_processes(words: Sequence[str], size: int) -> int:
    """Run ``sft train`` with these arguments in ``size`` processes.

    Signals are forwarded to all of them. When one fails, the others end within ``GRACE_SECONDS``.

    Returns:
        The exit code: 0, or that of the first process that failed.
    """
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int) -> None:
        """Send a signal to all children."""
        for child in children:
            child.send_signal(number)

    command = [sys.executable, "-m", "sft_cli", "train", *words]
    with signals_handled_by(forward):
        try:
            for rank in range(size):
                own = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                # A session of its own: Ctrl-C reaches the children through us, once.
                begin = partial(subprocess.Popen, start_new_session=True, preexec_fn=terminate_with_parent)
                children.append(begin(command, env=own))
            return _wait_for_all(children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()


def _wait_for_all(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes and return the exit code of the first one that failed, or 0."""
    failed, deadline = 0, 0.0
    while True:
        codes = [child.poll() for child in children]
        if not failed and (found := [code for code in codes if code]):
            failed, deadline = _shell_exit_code(found[0]), time.monotonic() + GRACE_SECONDS
        if None not in codes:
            return failed
        if failed and time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(POLL_SECONDS)


def _shell_exit_code(code: int) -> int:
    """The exit code as a shell reports it: 128 + signal for a process that a signal ended."""
    return 128 - code if code < 0 else code


def free_port() -> int:
    """A free TCP port of the loopback interface.

    Raises:
        SftError: The loopback interface cannot be used.
    """
    try:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return int(found.getsockname()[1])
    except OSError as error:
        raise SftError(
            where="127.0.0.1",
            problem=f"the processes of a run connect there, and it cannot be used: {error.strerror}",
            fix="allow connections on the loopback interface, or leave launcher.nproc out",
        ) from error
