"""Run tasks in several processes; results keep the order of the tasks, whatever the number of processes."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sft_cli.errors import SftError
from sft_cli.utils.processes import exit_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")
SMALL = 6000
"""Number of rows below which one process is fastest."""
GARBAGE = (50_000, 20, 100)
"""Thresholds of Python's cycle collector: rows are many objects without cycles, and collecting took 8% of encoding."""
AHEAD = 3
"""Tasks per process that are submitted before the first result is taken."""

_setup: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
"""Function and arguments that create the state of this process, with its first task, so that errors reach the
parent."""
_state: Any = None
"""State of this process."""


def count(wanted: int | None) -> int:
    """Return the number of processes: the requested one, or one per core this process may use."""
    return wanted or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1


def worth(num_rows: int, processes: int) -> int:
    """Return the number of processes for ``num_rows`` rows: starting one takes as long as a few thousand rows."""
    return processes if num_rows >= SMALL else 1


def run(
    setup: Callable[..., Any],
    arguments: Sequence[Any],
    work: Callable[[Any, Task], Result],
    tasks: Sequence[Task],
    processes: int,
) -> Iterator[Result]:
    """Yield ``work(state, task)`` for each task, in order; each process creates ``state = setup(*arguments)`` once.

    With one process or one task, everything runs in this process. Both functions must be defined at module level,
    since they are pickled by name.

    Args:
        setup: Function that creates the state of a process.
        arguments: Arguments of ``setup``.
        work: Function of state and task that returns a result.
        tasks: The tasks.
        processes: Number of processes.

    Raises:
        SftError: A process was killed.
    """
    if processes == 1 or len(tasks) <= 1:
        yield from _run_in_process(setup, arguments, work, tasks)
        return
    # Spawn, not fork: threads of torch or of the tokenizer may hold locks.
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialize_worker,
        initargs=(setup, tuple(arguments)),
    )
    try:
        yield from _ordered(pool, work, tasks, processes * AHEAD)
    except BrokenProcessPool as error:
        raise SftError(
            where="a worker process",
            problem="the process was killed, probably because the machine ran out of memory",
            fix="try again with fewer processes: data.workers=1 (finished parts are kept)",
        ) from error
    except BaseException:
        _terminate(pool)
        raise
    pool.shutdown()


def _run_in_process(
    setup: Callable[..., Any], arguments: Sequence[Any], work: Callable[[Any, Task], Result], tasks: Sequence[Task]
) -> Iterator[Result]:
    """Yield the results in order, computed in this process."""
    state = setup(*arguments) if tasks else None
    gc.freeze()  # exempt loaded objects from collection, which takes up to a fifth of the time
    thresholds = gc.get_threshold()
    gc.set_threshold(*GARBAGE)
    try:
        for task in tasks:
            yield work(state, task)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _ordered(
    pool: ProcessPoolExecutor, work: Callable[[Any, Task], Result], tasks: Sequence[Task], ahead: int
) -> Iterator[Result]:
    """Yield the results in the order of the tasks, with at most ``ahead`` tasks submitted."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_work, work, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _initialize_worker(setup: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Prepare a new process: ignore Ctrl-C, exit with the parent, and use one thread for tokenizers."""
    global _setup
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _setup = setup, arguments


def _work(work: Callable[[Any, Any], Any], task: Any) -> Any:
    """Return the result of a task; the first call creates the state of the process."""
    global _setup, _state
    if _setup is not None:
        setup, arguments = _setup
        _state = setup(*arguments)
        _setup = None
        gc.freeze()
        gc.set_threshold(*GARBAGE)
    return work(_state, task)


def _terminate(pool: ProcessPoolExecutor) -> None:
    """Cancel waiting tasks and kill running ones (parts are written completely or not at all)."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
