"""Write files completely or not at all, even if the power fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Yield a path next to ``file`` to write to; it is synced and renamed to ``file`` unless the block raises."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield new
        fsync(new)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def write_atomic(file: Path, content: str | bytes) -> None:
    """Write a file so that it always holds either its old content or the new one."""
    with atomic_path(file) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def fsync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apply_umask(directory: Path) -> None:
    """Give a directory and its contents the modes of new files; temporary ones are private to their owner."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (directory, *directory.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
