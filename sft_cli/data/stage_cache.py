"""Finished stages of preparation, kept by the content of what they were made from.

A stage is a directory of parts, ``$SFT_HOME/stages/<stage>/<key>``. While it is made it is called ``<key>.partial``;
every part in it is whole (written beside, then renamed), so that a run that was stopped goes on where it stood.
"""

import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sft_cli.config.paths import cache_home
from sft_cli.console import say

DONE = "stage.json"
"""Written last: what the stage was made from, and what it found."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What disks shared over a network may answer when a file is to be locked."""
KEEP_DAYS = 30
"""Stages nobody has used for so long are removed."""


def digest(value: Any) -> str:
    """SHA-256 of plain values as canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def code(*modules: str) -> str:
    """Digest of the source of modules and packages of ``sft_cli``: another version of the code makes another stage."""
    files: list[Path] = []
    for module in modules:
        found = importlib.util.find_spec(f"sft_cli.{module}")
        assert found is not None, module
        assert found.origin is not None, module
        file = Path(found.origin)
        files += sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def building(stage: str, inputs: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """The directory of a stage, and whether it is finished already.

    If it is not, the body makes it, whole parts at a time, and ends with ``finish``; another process that wants the
    same stage waits meanwhile.
    """
    key = digest(inputs)[:32]
    final = cache_home() / "stages" / stage / key
    final.parent.mkdir(parents=True, exist_ok=True)
    if (final / DONE).is_file():
        _used(final)
        yield final, True
        return
    with _alone(final.with_suffix(".lock")):
        partial = final.with_suffix(".partial")
        if not (final / DONE).is_file():
            shutil.rmtree(final, ignore_errors=True)  # the rest of one that was being removed
            partial.mkdir(exist_ok=True)
            if (partial / DONE).is_file():
                partial.rename(final)
        if (final / DONE).is_file():
            _used(final)
            yield final, True
            return
        yield partial, False
        if (partial / DONE).is_file():
            partial.rename(final)


def finish(directory: Path, found: Mapping[str, Any]) -> None:
    """Mark a stage as finished, with what it found (plain values)."""
    write_whole(directory / DONE, json.dumps(found, ensure_ascii=False, indent=1).encode() + b"\n")


def final(directory: Path) -> Path:
    """Where a stage lies once ``building`` has ended."""
    return directory.with_suffix("")


def found(directory: Path) -> dict[str, Any]:
    """What a finished stage found."""
    return json.loads((directory / DONE).read_text(encoding="utf-8"))


def write_whole(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole(file) as new:
        new.write_bytes(content)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Where the body writes a file that is there whole afterwards, after a power cut too, or not at all."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield new
        to_disk(new)
        new.rename(file)
    finally:
        new.unlink(missing_ok=True)


def to_disk(file: Path) -> None:
    """Wait until a file that was written outlives a power cut."""
    with open(file, "rb") as written:
        os.fsync(written.fileno())


def forget_old() -> None:
    """Remove stages that no run has used for ``KEEP_DAYS`` days."""
    limit = time.time() - KEEP_DAYS * 86_400
    old = [path for path in (cache_home() / "stages").glob("*/*") if path.is_dir() and path.stat().st_mtime < limit]
    old = [path for path in old if not _made_now(path.with_suffix(".lock"))]
    for path in old:
        (path / DONE).unlink(missing_ok=True)  # first: what is half removed must not pass for finished
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
    if old:
        say(f"cache     {len(old)} stages unused for {KEEP_DAYS} days were removed from {cache_home() / 'stages'}")


def _made_now(file: Path) -> bool:
    """Whether another process holds the lock of a stage: it is being made, whatever a clock that jumped says."""
    if not file.is_file():
        return False
    with open(file, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False


def _used(directory: Path) -> None:
    """Remember that a stage was of use now."""
    os.utime(directory)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds the file, and hold it."""
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("data      another run prepares the same rows; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"data      the disk of {cache_home()} has no locks: let one run at a time prepare the same rows")
        yield
