"""The lock of a run directory: one process trains there, identified by its host, pid and start time.

On one machine, the kernel releases the lock when the process ends. Network file systems do not always pass a lock to
other machines, or have no locks. Therefore the owner is also written to the lock file and removed at the end, and the
owner touches the file regularly: a process that finds an owner on another machine watches for that. Clocks of different
machines are never compared.
"""

import json
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.utils.disks import unused_path
from sft_cli.utils.locks import is_locked, lock

HEARTBEAT_SECONDS = 10.0
"""Seconds after which the owner touches the file again."""
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
STALE_SECONDS = 60.0
"""Seconds without a touch after which an owner on another machine counts as ended; network disks cache for less."""


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The process that trains in a run directory, and its start time (local time with its offset)."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        """Return ``process 4711 on node7``."""
        return f"process {self.pid} on {self.host}"


def current_owner(file: Path) -> LockOwner | None:
    """Return the process that trains in a run directory; None if none does.

    A process on another machine counts as training until its owner entry is removed: its lock may not be visible here.
    """
    if not file.is_file():
        return None
    owner = _read_owner(file)
    if is_locked(file):
        return owner or LockOwner("this machine", 0, "")
    if owner is None or owner.host != socket.gethostname():
        return owner
    return owner if _is_alive(owner) else None


def _is_alive(owner: LockOwner) -> bool:
    """Return whether a process of this machine still runs, for disks without locks; its pid may have been reused."""
    import psutil

    try:
        began = psutil.Process(owner.pid).create_time()
    except psutil.Error:
        return False
    return began <= time.mktime(time.strptime(owner.since[:19], TIME_FORMAT)) + 1


@contextmanager
def hold_run_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a run directory for the block; ``file`` is created if needed.

    Raises:
        SftError: Another process holds it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        supports_locks = _try_lock(descriptor, file)
        previous = _read_owner(file)
        if previous is not None and not (supports_locks and previous.host == socket.gethostname()):
            _wait_until_stale(previous, file)
        owner = LockOwner(socket.gethostname(), os.getpid(), time.strftime(f"{TIME_FORMAT} %z"))
        _overwrite(descriptor, json.dumps(asdict(owner)) + "\n")
        try:
            with _heartbeat(descriptor):
                yield
        finally:
            _overwrite(descriptor, "")
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, file: Path) -> bool:
    """Lock an open file and return whether its disk supports locks."""
    try:
        return lock(descriptor)
    except BlockingIOError as error:
        raise _in_use_error(file, _read_owner(file)) from error


class OwnerWatch:
    """Watches whether the owner of a run directory still touches the lock file; clocks are not compared."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._touch, self._seen = _mtime_ns(file), time.monotonic()

    def is_stale(self) -> bool:
        """Return whether the file has not been touched for ``STALE_SECONDS``."""
        touch = _mtime_ns(self._file)
        if touch != self._touch:
            self._touch, self._seen = touch, time.monotonic()
        return time.monotonic() - self._seen > STALE_SECONDS


def _wait_until_stale(owner: LockOwner, file: Path) -> None:
    """Wait until an owner on another machine counts as ended.

    Raises:
        SftError: It is still running.
    """
    say(
        f"lock      {owner} started training here and did not release the lock; checking for {STALE_SECONDS:.0f} s"
        " whether it is still running"
    )
    deadline, last_touch = time.monotonic() + STALE_SECONDS, _mtime_ns(file)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        if _mtime_ns(file) != last_touch:
            raise _in_use_error(file, _read_owner(file) or owner)
    say(f"lock      {owner} is not running any more")


def _in_use_error(file: Path, owner: LockOwner | None) -> SftError:
    """Return the error for a second process."""
    problem = f"{owner} has been training there since {owner.since}" if owner else "another process trains there"
    stop, other = (shlex.quote(str(path)) for path in (file.parent, unused_path(file.parent)))
    return SftError(
        where=str(file.parent),
        problem=problem,
        fix=f"wait for it, or stop it: sft stop {stop}; a new run needs a directory of its own: run_dir={other}",
    )


def _read_owner(file: Path) -> LockOwner | None:
    """Return the owner that the file names; None if there is none or the file is damaged."""
    try:
        return LockOwner(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


def _mtime_ns(file: Path) -> int:
    """Return the modification time of the file. Opening it makes a network disk ask its server for the time."""
    with file.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime_ns


def _overwrite(descriptor: int, text: str) -> None:
    """Replace the content of the file."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


@contextmanager
def _heartbeat(descriptor: int) -> Iterator[None]:
    """Touch the file every ``HEARTBEAT_SECONDS`` during the block."""
    released = threading.Event()

    def beat() -> None:
        """Update the time of the lock file until the lock is released."""
        while not released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a network disk may be unavailable for a moment
                os.utime(descriptor)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
