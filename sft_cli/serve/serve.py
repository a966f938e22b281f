"""Serve a model until Ctrl-C."""

import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from sft_cli.console import counted, say
from sft_cli.run_dir import RunDir
from sft_cli.serve.engine import Engine, choose_engine
from sft_cli.serve.proxy import recording
from sft_cli.serve.recorder import Recorder
from sft_cli.serve.server import RunningServer, check_port, started
from sft_cli.serve.source import check_source, servable
from sft_cli.utils.ports import free_port
from sft_cli.utils.processes import signals_handled_by

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the command; without a handler, the temporary directory would stay."""


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """The settings of ``sft serve``.

    Attributes:
        source: A run, or the directory of a plain model.
        port: Port of the API.
        engine: The server program; None means vLLM if it is installed, else transformers.
        timeout: Seconds that loading may take.
        record: File for rows of the traffic, or None.
    """

    source: RunDir | Path
    port: int
    engine: Engine | None
    timeout: float
    record: Path | None


@contextmanager
def served(source: RunDir | Path, port: int, engine: Engine, timeout: float) -> Iterator[RunningServer]:
    """Start a server for a model, yield it when it is ready, and stop it; nothing remains afterwards.

    Args:
        source: A run, or the directory of a plain model.
        port: A free port.
        engine: The server program.
        timeout: Seconds that loading may take.

    Raises:
        SftError: The model cannot be served, or the server ends or is not ready in time.
    """
    with (
        TemporaryDirectory(prefix="sft-serve-") as folder,
        signals_handled_by(_end, ENDING),
        servable(source, Path(folder)) as model,
    ):
        say(f"loading   {model.name} with {engine}")
        with started(engine, model, port, timeout) as server:
            yield server


def _end(number: int) -> NoReturn:
    """Unwind the program, with the exit code of a shell for a signal."""
    raise SystemExit(128 + number)


def serve(request: ServeRequest) -> None:
    """Serve a model until Ctrl-C, and print how to use it.

    Raises:
        SftError: A setting is wrong, or the server ended.
    """
    engine = choose_engine(request.engine)
    check_source(request.source)
    check_port(request.port)
    recorder = None if request.record is None else Recorder(request.record)
    with ExitStack() as stack:
        port = request.port if recorder is None else free_port()
        server = stack.enter_context(served(request.source, port, engine, request.timeout))
        url = server.url
        if recorder is not None:
            url = stack.enter_context(recording(request.port, server.url, recorder))
            say(
                f"record    every complete chat answer is appended to {request.record}, with all messages and tools of"
                " its request: tell those who use this address"
            )
        say(f"serving   {url}/v1 (model {server.model}); Ctrl-C stops it")
        say(f"try       {curl_command(url, server.model)}")
        try:
            server.wait()
        except KeyboardInterrupt:
            say("stopped   the server has ended")
        if recorder is not None:
            skipped = f"; {counted(recorder.skipped, 'answer')} cut, empty or unreadable" if recorder.skipped else ""
            say(f"recorded  {counted(recorder.rows, 'row')} in {recorder.file}{skipped}")


def curl_command(url: str, model: str) -> str:
    """Return a command that asks the model a question."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    words = ["curl", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return shlex.join(words)
