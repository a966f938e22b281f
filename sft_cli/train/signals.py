"""Signals that stop a run: during training, after the current step is saved; otherwise at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft_cli.utils.processes import FINISH_SIGNAL, STOP_SIGNALS

HANDLED = (*STOP_SIGNALS, FINISH_SIGNAL)
"""Signals that a run handles."""


class StopRequested(KeyboardInterrupt):
    """A signal came outside training, when there is no step to save.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


class RaisingHandler:
    """A handler that raises ``StopRequested`` and records the signal, in case a library swallows the exception.

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
    previous = {number: signal.signal(number, handler) for number in HANDLED}
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT, SIGUSR1 (a scheduler's warning) and SIGQUIT (finish now) in a list inside the block.

    A second signal of the same kind goes to the previous handler.
    """
    previous = {number: signal.getsignal(number) for number in HANDLED}
    outer = previous[signal.SIGTERM]
    caught = list(outer.numbers) if isinstance(outer, RaisingHandler) else []

    def record(number: int, _frame: Any) -> None:
        """Record a signal, and restore its previous handler."""
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, record)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
