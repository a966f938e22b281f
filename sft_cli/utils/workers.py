"""Work spread over processes: results in the order of the tasks, whatever the number of processes."""

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
"""Rows below which one process is fastest."""
GARBAGE = (50_000, 20, 100)
"""When Python looks for reference cycles: rows are many objects and no cycles; looking cost a twelfth of encoding."""
AHEAD = 3
"""Tasks per process that are handed out before the first result is taken."""

_setup: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
"""What makes the state of this process: with its first task, so that an error of it reaches the parent."""
_state: Any = None
"""What it made."""


def count(wanted: int | None) -> int:
    """The number of processes: the one wanted, or one per core this process may use."""
    return wanted or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1


def worth(num_rows: int, processes: int) -> int:
    """The number of processes for so many rows: starting one costs as much as some thousand rows."""
    return processes if num_rows >= SMALL else 1


def run(
    setup: Callable[..., Any],
    arguments: Sequence[Any],
    work: Callable[[Any, Task], Result],
    tasks: Sequence[Task],
    processes: int,
) -> Iterator[Result]:
    """``work(state, task)`` for each task, in order; ``state = setup(*arguments)`` is made once in each process.

    One process, or one task, runs here. Both functions are those of modules: they are sent by name.

    Raises:
        SftError: A process was killed.
    """
    if processes == 1 or len(tasks) <= 1:
        yield from _here(setup, arguments, work, tasks)
        return
    # Not forked: threads of torch or of the tokenizer may hold locks at that moment.
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(setup, tuple(arguments)),
    )
    try:
        yield from _ordered(pool, work, tasks, processes * AHEAD)
    except BrokenProcessPool as error:
        raise SftError(
            where="a worker process",
            problem="it was killed, most likely because the machine ran out of memory",
            fix="try again with fewer: data.workers=1 (what was finished is kept)",
        ) from error
    except BaseException:
        _end(pool)
        raise
    pool.shutdown()


def _here(
    setup: Callable[..., Any], arguments: Sequence[Any], work: Callable[[Any, Task], Result], tasks: Sequence[Task]
) -> Iterator[Result]:
    """The results, one after the other, in this process."""
    state = setup(*arguments) if tasks else None
    gc.freeze()  # what is loaded by now stays: looking through it again and again costs up to a fifth of the time
    usual = gc.get_threshold()
    gc.set_threshold(*GARBAGE)
    try:
        for task in tasks:
            yield work(state, task)
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def _ordered(
    pool: ProcessPoolExecutor, work: Callable[[Any, Task], Result], tasks: Sequence[Task], ahead: int
) -> Iterator[Result]:
    """The results in the order of the tasks, never more than ``ahead`` tasks handed out."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_work, work, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin(setup: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """First thing in a new process: Ctrl-C is the parent's to handle, one process is one thread, none outlives it."""
    global _setup
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _setup = setup, arguments


def _work(work: Callable[[Any, Any], Any], task: Any) -> Any:
    global _setup, _state
    if _setup is not None:
        setup, arguments = _setup
        _state = setup(*arguments)
        _setup = None
        gc.freeze()
        gc.set_threshold(*GARBAGE)
    return work(_state, task)


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop at once: nothing more is begun, and what runs is killed (parts are written whole or not at all)."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
