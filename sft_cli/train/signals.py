"""Signals that stop a run: during training, after the current step is saved; otherwise at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft_cli.utils.processes import STOP_SIGNALS


class StopRequested(KeyboardInterrupt):
    """A signal came while there was no step to save.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


class RaisingHandler:
    """A handler that raises ``StopRequested`` and keeps the signal, in case a library swallows the exception.

    Attributes:
        numbers: The received signals.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, _frame: Any) -> None:
        """Handle a signal."""
        self.numbers.append(number)
        raise StopRequested(number)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise ``StopRequested`` on a signal inside the block."""
    handler = RaisingHandler()
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 (a scheduler's warning) in a list; a second one has its previous effect."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    earlier = before[signal.SIGTERM]
    caught = list(earlier.numbers) if isinstance(earlier, RaisingHandler) else []

    def remember(number: int, _frame: Any) -> None:
        """Record a signal; a second one has its previous effect."""
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
