"""Signals that ask a run to stop: while it trains they wait until its step is saved, elsewhere they end it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Asked(KeyboardInterrupt):
    """A signal came where no step has to be saved first.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


class Handler:
    """Raises ``Asked``, and remembers it: a library that swallows exceptions does not swallow the wish to stop.

    Attributes:
        numbers: The signals that came.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, _frame: Any) -> None:
        """What Python calls when a signal came."""
        self.numbers.append(number)
        raise Asked(number)


@contextmanager
def asked_to_stop() -> Iterator[None]:
    """Have the signals raise ``Asked`` within."""
    handler = Handler()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 (a scheduler's warning) instead of dying; a second one kills as usual."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    earlier = before[signal.SIGTERM]
    caught = list(earlier.numbers) if isinstance(earlier, Handler) else []

    def remember(number: int, _frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
