"""Linux control groups, version 1 or 2, that bound the memory and the number of processes of a program."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids")
SETTINGS: Mapping[int, Mapping[str, str]] = {
    1: {"memory": "memory.limit_in_bytes", "pids": "pids.max"},
    2: {"memory": "memory.max", "pids": "pids.max"},
}
"""Version -> controller -> file of its limit."""
PATIENCE = 5.0
"""Seconds to wait for killed processes to exit; the kernel frees their memory meanwhile."""


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group of processes; in version 1 it has a folder per controller."""

    folders: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move a process, which takes its future children with it, into the group."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """Kill all processes of the group and wait until they have exited."""
        end = time.monotonic() + PATIENCE
        while (pids := self._pids()) and time.monotonic() < end:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.01)

    def _pids(self) -> list[int]:
        """Return the processes of the group."""
        return [int(line) for folder in self.folders for line in (folder / "cgroup.procs").read_text().split()]


@contextmanager
def control_group(name: str, memory: int, processes: int) -> Iterator[ControlGroup]:
    """Yield a new group; kill its processes and remove it after the block.

    Args:
        name: Name of the group within the group of this process.
        memory: Bytes of all processes together, with their files in memory.
        processes: Most processes and threads.

    Raises:
        OSError: This process may not make a group with both limits.
    """
    version, parents = _parents()
    folders: list[Path] = []
    try:
        for parent, controllers in parents.items():
            folder = parent / name
            folder.mkdir()
            folders.append(folder)
            for controller in controllers:
                limit = memory if controller == "memory" else processes
                (folder / SETTINGS[version][controller]).write_text(str(limit))
            swap = folder / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
        group = ControlGroup(tuple(folders))
        try:
            yield group
        finally:
            group.kill()
    finally:
        for folder in folders:
            _remove(folder)


def _parents() -> tuple[int, Mapping[Path, tuple[str, ...]]]:
    """Return the version, and the folders in which a group is made, with the controllers of each."""
    own = _own_groups()
    if (ROOT / "cgroup.controllers").exists():
        folder = ROOT / own.get("", "").lstrip("/")
        for parent in (folder, *folder.parents):
            if not parent.is_relative_to(ROOT):
                break
            if set(CONTROLLERS) <= set((parent / "cgroup.subtree_control").read_text().split()):
                return 2, {parent: CONTROLLERS}
        raise OSError("the memory and pids controllers are not enabled for control groups of this process")
    parents = {}
    for controller in CONTROLLERS:
        folder = ROOT / controller / own.get(controller, "").lstrip("/")
        # In a container the path is the host's, and the mount shows the own group as its root.
        parents[folder if folder.is_dir() else ROOT / controller] = (controller,)
    return 1, parents


def _own_groups() -> dict[str, str]:
    """Return the group of this process by controller; that of version 2 under an empty name."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _remove(folder: Path) -> None:
    """Remove a group; the kernel may need a moment after its last process."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                return  # an empty group that is left costs nothing
            time.sleep(0.01)
