"""Start the processes of a run on this machine and exit with the code of the first one that failed.

torchrun is not used because it always exits with 1, prints a summary after the error message, and kills processes that
are still saving 30 seconds after a signal.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

from sft_cli.config.schema.launcher import Auto
from sft_cli.config.schema.trainer import Device
from sft_cli.utils.ports import free_port
from sft_cli.utils.processes import FINISH_SIGNAL, STOP_SIGNALS, signals_handled_by, terminate_with_parent

GRACE_SECONDS = 10.0
"""Seconds that the other processes have to end after one failed, before they are killed."""
POLL_SECONDS = 0.05


def resolve_nproc(nproc: Auto | int, device: Device) -> int:
    """Return the number of processes for ``launcher.nproc``; ``auto`` is one per GPU, at least one."""
    return nproc if isinstance(nproc, int) else max(1, count_gpus()) if device is not Device.cpu else 1


def count_gpus() -> int:
    """Return the number of visible CUDA devices, from nvidia-smi, since importing torch takes a second."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def launch_processes(words: Sequence[str], size: int) -> int:
    """Run ``sft`` with these words, a command and its arguments, in ``size`` processes.

    Signals are forwarded to all processes. If one fails, the others end within ``GRACE_SECONDS``.

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

    command = [sys.executable, "-m", "sft_cli", *words]
    with signals_handled_by(forward, (*STOP_SIGNALS, FINISH_SIGNAL)):
        try:
            for rank in range(size):
                environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                # In a session of their own, the children receive Ctrl-C only once, through this process.
                start = partial(subprocess.Popen, start_new_session=True, preexec_fn=terminate_with_parent)
                children.append(start(command, env=environment))
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
        if not failed and (failures := [code for code in codes if code]):
            failed, deadline = _shell_exit_code(failures[0]), time.monotonic() + GRACE_SECONDS
        if None not in codes:
            return failed
        if failed and time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(POLL_SECONDS)


def _shell_exit_code(code: int) -> int:
    """Return the exit code as a shell reports it: 128 + signal for a process that a signal ended."""
    return 128 - code if code < 0 else code
