"""Speed up slow imports."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection for imports, which create a million objects and no garbage.

    Importing torch, transformers and PEFT takes 3.3 instead of 4.0 CPU seconds (measured on a busy machine).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
