"""End ``sft`` on Ctrl-C while modules are imported, when there is nothing to clean up yet."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Exit at once with code 130 and the line ``interrupted`` if Ctrl-C is pressed inside the block.

    An exception is not enough there: it would be a traceback before the command starts, and libraries catch exceptions
    of their own imports. A handler that the caller installed stays in place.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: object) -> NoReturn:
    """Print the line, except in a process that a launcher started, and exit without cleaning up."""
    if "RANK" not in os.environ:
        os.write(2, b"\ninterrupted\n" if os.isatty(2) else b"interrupted\n")
    os._exit(130)
