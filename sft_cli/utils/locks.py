"""File locks of the kernel, which are released when their process ends.

Network disks may not support them, each with its own error. Here that is a return value, not an exception (the package
filelock waits forever on such a disk).
"""

import errno
import fcntl
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""Errors of disks that do not support locks."""


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file for this process.

    Args:
        descriptor: The file, open for writing.
        wait: Wait while another process holds the lock.

    Returns:
        Whether the disk supports locks; otherwise nothing is locked.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def is_locked(file: Path) -> bool:
    """Return whether a process of this machine holds the lock of a file, which may be missing."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False
