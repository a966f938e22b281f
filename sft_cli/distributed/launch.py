"""Starts the processes of a run on this machine, and ends with what the first of them that failed ended with.

torchrun would do for starting, but it ends with 1 whatever happened, prints its own account of a failure behind the
sentence that matters, and kills what is still saving 30 seconds behind a signal.
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

GRACE = 10.0
"""Seconds that the other processes have to notice that one failed, before they are killed."""
POLL = 0.05


def processes(nproc: Auto | int, device: Device) -> int:
    """How many processes ``launcher.nproc`` means here: ``auto`` is one for each GPU, and one without any."""
    return nproc if isinstance(nproc, int) else max(1, gpus()) if device is not Device.cpu else 1


def gpus() -> int:
    """CUDA devices that a process here would see; asked of the driver's own tool, because torch takes a second."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def train_together(words: Sequence[str], size: int) -> int:
    """Run ``sft train`` with these words in ``size`` processes; the exit code: 0, or that of the first that failed.

    Signals are passed on to all of them. When one fails, the others end within ``GRACE`` seconds.
    """
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int) -> None:
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
            return _ended(children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()


def _ended(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; the exit code of the first that failed, 0 if none did."""
    failed, deadline = 0, 0.0
    while True:
        codes = [child.poll() for child in children]
        if not failed and (found := [code for code in codes if code]):
            failed, deadline = _as_shell(found[0]), time.monotonic() + GRACE
        if None not in codes:
            return failed
        if failed and time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(POLL)


def _as_shell(code: int) -> int:
    """An exit code as a shell has it: 128 + the signal for a process that one ended."""
    return 128 - code if code < 0 else code


def free_port() -> int:
    """A TCP port of this machine that nobody listens on.

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
            problem=f"several processes meet there, and it cannot be used: {error.strerror}",
            fix="allow connections on the loopback interface, or leave launcher.nproc out",
        ) from error
