"""The lock of a run directory: one process trains there, known by its host, its pid and when it began.

On one machine the kernel holds the lock and lets it fall with the process. Disks shared over a network do not always
carry a lock to other machines, or have none. So the owner is written into the lock's file and cleared when it leaves,
and it touches the file while it lives: who finds an owner of another machine there watches whether it still does. No
clock is compared with another machine's.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.utils.locks import lock

BEAT = 10.0
"""Seconds between two touches of the file by its owner."""
WATCH = 60.0
"""Seconds without a touch after which an owner on another machine counts as gone: what a network disk may cache."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who trains in a run directory, and since when (local time with its offset)."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        """``process 4711 on node7``."""
        return f"process {self.pid} on {self.host}"


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold the lock of a run directory; ``file`` is made where it is not there.

    Raises:
        SftError: Another process holds it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        reaches = _locked(descriptor, file)
        before = _owner(file)
        if before is not None and not (reaches and before.host == socket.gethostname()):
            _outwait(before, file)
        owner = Owner(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z"))
        _write(descriptor, json.dumps(asdict(owner)) + "\n")
        try:
            with _beating(descriptor):
                yield
        finally:
            _write(descriptor, "")
    finally:
        os.close(descriptor)


def _locked(descriptor: int, file: Path) -> bool:
    """Lock an open file; whether its disk has locks at all."""
    try:
        return lock(descriptor)
    except BlockingIOError as error:
        raise _taken(file, _owner(file)) from error


def _outwait(owner: Owner, file: Path) -> None:
    """Watch an owner that a lock cannot tell about, until it counts as gone.

    Raises:
        SftError: It lives.
    """
    say(
        f"lock      {owner} started training here and did not release the lock; watching for {WATCH:.0f} s whether it"
        " still runs"
    )
    until, seen = time.monotonic() + WATCH, _touched(file)
    while time.monotonic() < until:
        time.sleep(min(1.0, WATCH / 10))
        if _touched(file) != seen:
            raise _taken(file, _owner(file) or owner)
    say(f"lock      {owner} is gone")


def _taken(file: Path, owner: Owner | None) -> SftError:
    """What somebody is told who comes second."""
    known = f"{owner} trains there since {owner.since}" if owner else "another process trains there"
    stop = f"wait for it, or stop it (kill {owner.pid}, on {owner.host})" if owner else "wait for it or stop it"
    return SftError(where=str(file.parent), problem=known, fix=f"{stop}; a new run needs another run_dir")


def _owner(file: Path) -> Owner | None:
    """Who is written in the file; None where nobody is, or what was written there is no owner."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


def _touched(file: Path) -> int:
    """When the file was touched last; opened anew, so that a network disk asks its server."""
    with file.open("rb") as opened:
        return os.fstat(opened.fileno()).st_mtime_ns


def _write(descriptor: int, text: str) -> None:
    """Make this the file's whole content."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


@contextmanager
def _beating(descriptor: int) -> Iterator[None]:
    """Touch the file now and then while the body runs."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # a network disk may be away for a moment; training has its own errors for that
                os.utime(descriptor)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
