"""Cache finished stages of preparation by the content of their inputs.

A stage is a directory of parts, ``$SFT_HOME/stages/<stage>/<key>``. While it is built its name is ``<key>.partial``;
every part in it is complete (written to a temporary file, then renamed), so that an interrupted run continues after the
last part.
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
"""Written last: the inputs and the results of the stage."""
KEEP_DAYS = 30
"""Stages unused for this number of days are removed."""


@contextmanager
def stage_dir(stage: str, inputs: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """Yield the directory of a stage, and whether it is finished.

    If it is not, the body writes it, in complete parts, and ends with ``mark_done``; other processes that need the same
    stage wait.
    """
    key = json_digest(inputs)[:32]
    final = cache_home() / "stages" / stage / key
    final.parent.mkdir(parents=True, exist_ok=True)
    if (final / DONE_FILE).is_file():
        _touch(final)
        yield final, True
        return
    with _locked(final.with_suffix(".lock")):
        partial = final.with_suffix(".partial")
        if not (final / DONE_FILE).is_file():
            shutil.rmtree(final, ignore_errors=True)  # remains of an interrupted removal
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


def mark_done(directory: Path, results: Mapping[str, Any]) -> None:
    """Mark a stage as finished, with its results (JSON values)."""
    write_atomic(directory / DONE_FILE, json.dumps(results, ensure_ascii=False, indent=1).encode() + b"\n")


def final_dir(directory: Path) -> Path:
    """Return the directory of a stage after ``stage_dir`` has ended."""
    return directory.with_suffix("")


def load_result(directory: Path) -> dict[str, Any]:
    """Return the results of a finished stage."""
    return json.loads((directory / DONE_FILE).read_text(encoding="utf-8"))


def evict_old() -> None:
    """Remove stages that no run has used for ``KEEP_DAYS`` days."""
    limit = time.time() - KEEP_DAYS * 86_400
    old = [path for path in (cache_home() / "stages").glob("*/*") if path.is_dir() and path.stat().st_mtime < limit]
    old = [path for path in old if not is_locked(path.with_suffix(".lock"))]
    for path in old:
        (path / DONE_FILE).unlink(missing_ok=True)  # first, so that a partly removed stage does not count as finished
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
    if old:
        say(f"cache     {len(old)} stages unused for {KEEP_DAYS} days were removed from {cache_home() / 'stages'}")


def _touch(directory: Path) -> None:
    """Mark a stage as used now."""
    os.utime(directory)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for other processes of this machine."""
    with open(file, "w") as opened:
        try:
            locked = lock(opened.fileno())
        except BlockingIOError:
            say("data      another run is preparing the same rows; waiting for it")
            locked = lock(opened.fileno(), wait=True)
        if not locked:
            say(f"data      the disk of {cache_home()} has no file locks: prepare the same rows in one run at a time")
        yield
