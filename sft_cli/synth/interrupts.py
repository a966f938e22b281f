"""Ctrl-C while a teacher is asked: no further request is sent, and replies to those on their way are kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sft_cli.console import say
from sft_cli.suites.limits import EvalLimits

INTERRUPTED = "Ctrl-C"
"""What ``DrainingLimits.reached`` returns after it."""


@dataclass(slots=True)
class DrainingLimits(EvalLimits):
    """Limits of tokens and cost that are also reached after Ctrl-C.

    Attributes:
        interrupted: Whether it was pressed.
    """

    interrupted: bool = False

    def reached(self) -> str:
        """Return the limit that is reached, as ``key=value``, or ``Ctrl-C``; empty if none is."""
        return INTERRUPTED if self.interrupted else EvalLimits.reached(self)


@contextmanager
def draining(limits: DrainingLimits) -> Iterator[None]:
    """Let the first Ctrl-C inside the block set ``limits.interrupted``, and the second raise ``KeyboardInterrupt``."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        """Record the first signal."""
        limits.interrupted = True
        signal.signal(signal.SIGINT, previous)
        say("stopping  after the requests on their way; press Ctrl-C again to lose their replies")

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
