"""Runs of several real processes, forked from a server that has already imported torch."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sft_cli.utils.ports import free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sft_cli.train.session", "peft", "bitsandbytes"])


def _main(words: Sequence[str], environment: dict[str, str], log: str) -> None:
    """Run ``sft`` with these arguments as the process that the environment describes."""
    os.environ.update(environment)
    with open(log, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.argv = ["sft", *words]
        from sft_cli.cli import main

        main()


class TrainingProcesses:
    """Processes that train one run; the constructor starts them."""

    def __init__(self, words: Sequence[str], size: int, logs: Path, **environment: str) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        port = str(free_port())
        shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        self.logs = [logs / f"rank-{rank}.log" for rank in range(size)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            own = {**shared, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), **environment}
            process = CONTEXT.Process(target=_main, args=(["train", *words], own, str(log)))
            process.start()
            self.processes.append(process)

    def wait(self, seconds: float = 240) -> list[int | None]:
        """Wait for the processes and return their exit codes; a process that does not end is killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def send(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one of the processes."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def until(self, seen: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until a condition holds while the processes run."""
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, self.output()
            assert any(process.is_alive() for process in self.processes), self.output()
            time.sleep(0.02)

    def output(self) -> str:
        """Return everything that the processes printed."""
        return "\n".join(f"--- {log.name}\n{log.read_text() if log.is_file() else ''}" for log in self.logs)
