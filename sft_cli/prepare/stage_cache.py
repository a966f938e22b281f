"""Finished stages of preparation, kept by the content of what they were made from.

A stage is a directory of parts, ``$SFT_HOME/stages/<stage>/<key>``. While it is made it is called ``<key>.partial``;
every part in it is whole (written beside, then renamed), so that a run that was stopped goes on where it stood.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft_cli.config.paths import cache_home
from sft_cli.console import say
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.locks import is_locked, lock

DONE_FILE = "stage.json"
"""Written last: what the stage was made from, and what it found."""
KEEP_DAYS = 30
"""Stages nobody has used for so long are removed."""


@contextmanager
def stage_dir(stage: str, inputs: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """The directory of a stage, and whether it is finished already.

    If it is not, the body makes it, whole parts at a time, and ends with ``mark_done``; another process that wants the
    same stage waits meanwhile.
    """
    key = json_digest(inputs)[:32]
    final = cache_home() / "stages" / stage / key
    final.parent.mkdir(parents=True, exist_ok=True)
    if (final / DONE_FILE).is_file():
        _touch(final)
        yield final, True
        return
    with _alone(final.with_suffix(".lock")):
        partial = final.with_suffix(".partial")
        if not (final / DONE_FILE).is_file():
            shutil.rmtree(final, ignore_errors=True)  # the rest of one that was being removed
            partial.mkdir(exist_ok=True)
            if (partial / DONE_FILE).is_file():
                partial.rename(final)
        if (final / DONE_FILE).is_file():
            _touch(final)
            yield final, True
            return
        yield partial, False
        if (partial / DONE_FILE).is_file():
            partial.rename(final)


def mark_done(directory: Path, found: Mapping[str, Any]) -> None:
    """Mark a stage as finished, with what it found (plain values)."""
    write_atomic(directory / DONE_FILE, json.dumps(found, ensure_ascii=False, indent=1).encode() + b"\n")


def final_dir(directory: Path) -> Path:
    """Where a stage lies once ``stage_dir`` has ended."""
    return directory.with_suffix("")


def load_result(directory: Path) -> dict[str, Any]:
    """What a finished stage found."""
    return json.loads((directory / DONE_FILE).read_text(encoding="utf-8"))


def evict_old() -> None:
    """Remove stages that no run has used for ``KEEP_DAYS`` days."""
    limit = time.time() - KEEP_DAYS * 86_400
    old = [path for path in (cache_home() / "stages").glob("*/*") if path.is_dir() and path.stat().st_mtime < limit]
    old = [path for path in old if not is_locked(path.with_suffix(".lock"))]
    for path in old:
        (path / DONE_FILE).unlink(missing_ok=True)  # first: what is half removed must not pass for finished
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
    if old:
        say(f"cache     {len(old)} stages unused for {KEEP_DAYS} days were removed from {cache_home() / 'stages'}")


def _touch(directory: Path) -> None:
    """Remember that a stage was of use now."""
    os.utime(directory)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds the file, and hold it."""
    with open(file, "w") as opened:
        try:
            locked = lock(opened.fileno())
        except BlockingIOError:
            say("data      another run prepares the same rows; waiting for it")
            locked = lock(opened.fileno(), wait=True)
        if not locked:
            say(f"data      the disk of {cache_home()} has no locks: let one run at a time prepare the same rows")
        yield
