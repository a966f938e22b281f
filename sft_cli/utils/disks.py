"""Weights that cannot be written become a sentence: safetensors has an error of its own for a full disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sft_cli.errors import SftError


@contextmanager
def written(where: Path, fix: str) -> Iterator[None]:
    """Write weights within.

    Args:
        where: What shall be there afterwards.
        fix: What to do if it cannot be.

    Raises:
        SftError: safetensors could not write.
    """
    try:
        yield
    except SafetensorError as error:
        raise SftError(where=str(where), problem=f"it cannot be written: {error}", fix=fix) from error
