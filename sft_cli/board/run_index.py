"""The runs of a directory with their last figures; each change gets a number, so that only what changed is sent."""

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_cli.board.run_row import RunReader, RunRow
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.run_list import config_files

REFRESH_SECONDS = 1.0
"""Time within which a second request gets the rows of the first one."""
DISCOVERY_SECONDS = 5.0
"""Time between two searches for new runs."""


@dataclass(slots=True)
class _Known:
    """A run, its row, and the revision of the row."""

    reader: RunReader
    row: RunRow
    revision: int


class RunIndex:
    """The runs below a directory, by their paths relative to it.

    A run is only ever found by its name in this index, so that no request can name another file.

    Args:
        directory: The directory; it may be a run itself, which then has the name of the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance = secrets.token_hex(4)
        self._known: dict[str, _Known] = {}
        self._removed: dict[str, int] = {}
        self._revision = 0
        self._refreshed = self._discovered = float("-inf")
        self._lock = threading.Lock()

    def rows(self) -> list[RunRow]:
        """Return the rows of all runs, the most recently changed first."""
        with self._lock:
            self._refresh()
            return sorted((known.row for known in self._known.values()), key=lambda row: -row.changed)

    def changes(self, since: str = "") -> dict[str, Any]:
        """Return the rows that changed after a revision, and the names of runs that are gone.

        Args:
            since: The ``revision`` of an earlier answer; anything else gives all rows, with ``complete`` true.
        """
        instance, _, number = since.partition("-")
        with self._lock:
            self._refresh()
            complete = instance != self.instance or not number.isdecimal()
            after = -1 if complete else int(number)
            changed = [known.row for known in self._known.values() if known.revision > after]
            removed = [] if complete else [name for name, at in self._removed.items() if at > after]
            return {
                "revision": f"{self.instance}-{self._revision}",
                "complete": complete,
                "runs": [asdict(row) for row in sorted(changed, key=lambda row: -row.changed)],
                "removed": removed,
            }

    def run(self, name: str) -> RunDir:
        """Return the directory of a run.

        Raises:
            SftError: There is no such run.
        """
        return RunDir(self._find(name).reader.run.path)

    def row(self, name: str) -> RunRow:
        """Return the row of a run.

        Raises:
            SftError: There is no such run.
        """
        return self._find(name).row

    def _find(self, name: str) -> _Known:
        """Return a run by its name."""
        with self._lock:
            self._refresh()
            if name not in self._known:
                raise SftError(where=name, problem="there is no such run", fix=f"sft runs {self.directory}")
            return self._known[name]

    def _refresh(self) -> None:
        """Read what was appended to the files of the runs; find new runs from time to time."""
        now = time.monotonic()
        if now - self._refreshed < REFRESH_SECONDS:
            return
        for name, known in list(self._known.items()):
            row = known.reader.read(name)
            if row is None:
                self._remove(name)
            elif row != known.row:
                self._revision += 1
                known.row, known.revision = row, self._revision
        if now - self._discovered >= DISCOVERY_SECONDS:
            self._discover(self._readers())
            self._discovered = now
        self._refreshed = time.monotonic()

    def _readers(self) -> dict[str, Path]:
        """Return the run directories by name."""
        found = {file.parent for file in config_files(self.directory)}
        named = {path.relative_to(self.directory).as_posix(): path for path in found}
        if "." in named:
            named[self.directory.resolve().name] = named.pop(".")
        return named

    def _discover(self, found: Mapping[str, Path]) -> None:
        """Add new runs, and remove those that are gone."""
        for name in [name for name in self._known if name not in found]:
            self._remove(name)
        for name, path in found.items():
            if name not in self._known:
                reader = RunReader(RunDir(path))
                if (row := reader.read(name)) is not None:
                    self._revision += 1
                    self._known[name] = _Known(reader, row, self._revision)
                    self._removed.pop(name, None)

    def _remove(self, name: str) -> None:
        """Remove a run."""
        self._revision += 1
        del self._known[name]
        self._removed[name] = self._revision
