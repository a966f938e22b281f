"""Free disk space, unused paths, and errors of writing weights."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sft_cli.errors import SftError


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk of a path, which may not exist yet."""
    places = (path.absolute(), *path.absolute().parents)
    return shutil.disk_usage(next(place for place in places if place.is_dir())).free


@contextmanager
def translate_disk_errors(where: Path, fix: str) -> Iterator[None]:
    """Turn errors of safetensors in the block, which writes weights, into an ``SftError``.

    Args:
        where: Path of the weights.
        fix: Fix if they cannot be written.

    Raises:
        SftError: safetensors could not write.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise SftError(where=str(where), problem=f"the weights cannot be written: {error}", fix=fix) from error


def unused_path(out: Path) -> Path:
    """Return the first of the paths ``out-2``, ``out-3``, … that does not exist."""
    out = out if out.name else out.absolute()
    return next(path for number in count(2) if not os.path.lexists(path := out.with_name(f"{out.name}-{number}")))
