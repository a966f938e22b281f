"""Child processes that end with their parent and receive its signals."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a run to save and stop."""
FINISH_SIGNAL = signal.SIGQUIT
"""Signal that asks a run to end now and export the best weights so far; Ctrl-\\ sends it."""
PARENT_DIED = 1
"""Linux's PR_SET_PDEATHSIG; it stays set after exec."""


def terminate_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)


def exit_with_parent() -> None:
    """Wait for the parent of a ``multiprocessing`` process to end, then exit; runs in a thread.

    ``terminate_with_parent`` would not work: it reacts to the thread that started the process, which may end earlier.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def signals_handled_by(handle: Callable[[int], None], numbers: Sequence[int] = STOP_SIGNALS) -> Iterator[None]:
    """Call ``handle`` with the number of each signal received in the block; restore the old handlers after it."""
    before = {number: signal.signal(number, lambda received, _frame: handle(received)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
