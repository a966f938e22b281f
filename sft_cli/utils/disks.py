"""Disks: how much is free, and errors of writing that need a sentence."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft_cli.errors import SftError


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that a path, which may not exist yet, is or would be on."""
    places = (path.absolute(), *path.absolute().parents)
    return shutil.disk_usage(next(place for place in places if place.is_dir())).free


@contextmanager
def written(where: Path, fix: str) -> Iterator[None]:
    """Write weights within.

    Args:
        where: What shall be there afterwards.
        fix: What to do if it cannot be.

    Raises:
        SftError: safetensors could not write.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise SftError(where=str(where), problem=f"it cannot be written: {error}", fix=fix) from error
