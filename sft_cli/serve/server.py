"""A server process: started, waited for until it is healthy, and stopped with all its children."""

import errno
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.serve.engine import HOST, Engine, server_command, server_environment
from sft_cli.serve.source import ServedModel
from sft_cli.utils.ports import free_port
from sft_cli.utils.processes import terminate_with_parent

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""Time that a server has to end before it is killed."""
LAST_LINES = 8


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers requests.

    Attributes:
        process: Its process, the leader of its process group.
        url: Address of its API, such as ``http://127.0.0.1:8000``.
        model: The name of the model in requests.
        log: File of its output.
    """

    process: subprocess.Popen[bytes]
    url: str
    model: str
    log: Path

    def wait(self) -> None:
        """Wait until the server ends.

        Raises:
            SftError: It has ended, which it does only after a fault.
        """
        code = self.process.wait()
        raise SftError(
            where=self.url,
            problem=f"the server ended with {describe_exit(code, self.log)}",
            fix="sft serve RUN, which starts it again",
        )


def check_port(port: int) -> None:
    """Refuse a port on which another program listens.

    Raises:
        SftError: The port is in use; the fix names a free one.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = "is in use by another program" if error.errno == errno.EADDRINUSE else error
            raise SftError(
                where=f"--port {port}", problem=f"port {port} {reason}", fix=f"--port {free_port()}"
            ) from error


@contextmanager
def started(engine: Engine, model: ServedModel, port: int, timeout: float) -> Iterator[RunningServer]:
    """Start a server, wait until it is healthy, yield it, and stop it.

    Args:
        engine: The server program.
        model: The model.
        port: A free port.
        timeout: Seconds that loading may take.

    Raises:
        SftError: The server ended while it loaded, or did not become healthy in time.
    """
    log = model.folder / "server.log"
    words = server_command(engine, model.name, port, trust_remote_code=model.trust_remote_code)
    with log.open("wb") as output:
        # In a session of its own, the server gets no Ctrl-C of the terminal, and its children can be stopped with it.
        process = subprocess.Popen(
            words,
            cwd=model.folder,
            env=server_environment(model.folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=terminate_with_parent,
        )
    server = RunningServer(process, f"http://{HOST}:{port}", model.name, log)
    try:
        _wait_until_healthy(server, engine, timeout)
        yield server
    finally:
        stop(process)


def _wait_until_healthy(server: RunningServer, engine: Engine, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not is_healthy(server.url):
        code = server.process.poll()
        if code is not None:
            raise SftError(
                where=f"--engine {engine}",
                problem=f"the server ended while it loaded the model, with {describe_exit(code, server.log)}",
                fix="change what its last lines name" + ("" if engine == "transformers" else "\n--engine transformers"),
            )
        if time.monotonic() > deadline:
            raise SftError(
                where=f"--engine {engine}",
                problem=f"the server was not ready after {timeout:g} seconds; {last_lines(server.log)}",
                fix=f"--timeout {timeout * 4:g}",
            )
        time.sleep(POLL_SECONDS)


def is_healthy(url: str) -> bool:
    """Return whether a server answers its health check."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group: SIGTERM, then SIGKILL after ``GRACE_SECONDS``."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def describe_exit(code: int, log: Path) -> str:
    """Return how a server ended and its last lines."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}; {last_lines(log)}"


def last_lines(log: Path) -> str:
    """Return the last lines of a server's output, indented."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        lines = deque((line.rstrip() for line in stream if line.strip()), maxlen=LAST_LINES)
    return "its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else "it printed nothing"
