"""Properties of the GPU for the tests of this directory."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def is_simulated() -> bool:
    """Return whether the GPU is ``tests.cuda_simulator``: slow, exact, with memory that counts single tensors."""
    return torch.cuda.is_available() and torch.cuda.get_device_name() == "Simulated CUDA"


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield the list of places where the host waits for the card, each as torch's message and the last calls.

    A wait in a backward pass is reported where the pass was started. torch prints those below ``torch.ops`` to stderr
    instead; of a simulated card they are counted.
    """
    found: list[str] = []

    def record(message: Warning | str, *_: object) -> None:
        calls = traceback.format_list(traceback.extract_stack()[:-1][-6:])
        found.append(f"{str(message).splitlines()[0]}\n{''.join(calls)}")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", "called a synchronizing CUDA operation")
        warnings.showwarning = record
        torch.cuda.set_sync_debug_mode("warn")
        before = torch.ops.simulated_cuda.waits() if is_simulated() else 0
        try:
            yield found
            if is_simulated():
                unseen = torch.ops.simulated_cuda.waits() - before - len(found)
                found += ["called a synchronizing CUDA operation below torch.ops"] * unseen
        finally:
            torch.cuda.set_sync_debug_mode("default")
