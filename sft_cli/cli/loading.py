"""Import slow packages: faster, and so that Ctrl-C ends the program at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from sft_cli.cli.interrupts import exit_on_interrupt


@contextmanager
def slow_imports() -> Iterator[None]:
    """Disable garbage collection for imports, which create a million objects and no garbage; exit on Ctrl-C.

    Importing torch, transformers and PEFT takes 3.3 instead of 4.0 CPU seconds (measured on a busy machine).
    """
    gc.disable()
    try:
        with exit_on_interrupt():
            yield
    finally:
        gc.enable()
