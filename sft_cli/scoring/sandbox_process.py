"""Run untrusted programs with bubblewrap: no network, a read-only root, limits of time, memory, files and processes.

The program sees the system's libraries and the Python interpreter, nothing of the user's, and a ``/tmp`` of its own in
memory. ``prlimit`` does not bound the processes of root: as root, the program runs as a user of its own, in a control
group where that is possible. A machine on which a fork bomb would not be contained is refused.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO

from sft_cli.errors import SftError
from sft_cli.scoring.control_group import ControlGroup, control_group

FIRST_USER = 1_900_000_000
"""First user id of sandboxed programs; nobody's on a real system."""
SYSTEM_DIRS = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
WALL_FACTOR = 4
"""The program may take this many times its processor time, so that a busy machine fails no right answer."""
TAIL = 10_000
"""Bytes of output that are kept."""
_RUNS = itertools.count()

LIMITER = """
import os, resource, sys
seconds, memory, processes, file_bytes = map(int, sys.argv[1:5])
for kind, most in (
    (resource.RLIMIT_AS, memory), (resource.RLIMIT_NPROC, processes), (resource.RLIMIT_FSIZE, file_bytes),
    (resource.RLIMIT_NOFILE, 256), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # at the second, SIGKILL tells nothing of the time
os.execv(sys.executable, [sys.executable, "-I", "-c", *sys.argv[5:]])
"""
"""Sets the limits within the sandbox, where those of processes count the program's own, and starts it."""
PROBE = """
import os, sys, time
children = []
try:
    for _ in range(int(sys.argv[1]) + 4):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
except OSError:
    print("bounded")
for pid in children:
    os.kill(pid, 9)
"""
"""Prints ``bounded`` if it cannot start more processes than it may."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of a program.

    Attributes:
        seconds: Processor time of each process, in whole seconds; ``WALL_FACTOR`` times as much by the clock in all.
        memory: Bytes of each process, and of all together where there are control groups.
        processes: Processes and threads at a time.
        file_bytes: Bytes of each file and each stream of output; ``/tmp`` has four times as much.
    """

    seconds: int = 10
    memory: int = 1 << 30
    processes: int = 32
    file_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        exit_code: Exit code; negative for a signal.
        stdout: The end of its output.
        stderr: The end of its errors.
        timed_out: Whether it was ended at its limit of time.
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool


@dataclass(frozen=True, slots=True)
class SandboxMode:
    """How processes are bounded: by a control group, by a user of their own, or both."""

    has_group: bool
    own_user: bool


@cache
def sandbox_mode() -> SandboxMode:
    """Return the safest mode that works on this machine, tried out.

    Raises:
        SftError: There is no bubblewrap, or none of the modes contains a fork bomb.
    """
    if shutil.which("bwrap") is None:
        raise SftError(
            where="code",
            problem="answers with code are run in a sandbox, and bubblewrap (bwrap) is not installed",
            fix="sudo apt-get install bubblewrap  # or dnf, pacman",
        )
    root = os.geteuid() == 0
    modes = [SandboxMode(True, True), SandboxMode(True, False), SandboxMode(False, True)] if root else []
    error = ""
    for mode in modes or [SandboxMode(False, False)]:
        try:
            result = _run([PROBE, "6"], "", SandboxLimits(seconds=5, processes=6), mode)
        except OSError as problem:
            error = str(problem)
            continue
        if "bounded" in result.stdout:
            return mode
        error = result.stderr.strip().rpartition("\n")[2] or "the number of processes is not bounded"
    raise SftError(
        where="code",
        problem=f"answers with code are run in a sandbox, which this machine does not allow: {error[:200]}",
        fix="allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or remove suites that run code",
    )


def run_python(program: str, stdin: str, limits: SandboxLimits) -> SandboxResult:
    """Run a Python program in the sandbox.

    Raises:
        SftError: The machine has no sandbox; see ``sandbox_mode``.
    """
    return _run([program], stdin, limits, sandbox_mode())


def _run(arguments: Sequence[str], stdin: str, limits: SandboxLimits, mode: SandboxMode) -> SandboxResult:
    """Run a Python program with arguments. It waits for a first line of input until it is in its control group."""
    user = FIRST_USER + os.getpid() % 100_000 * 1000 + next(_RUNS) % 1000 if mode.own_user else None
    # The shell reads byte by byte, so that the rest of the input is the program's.
    command = ["/bin/sh", "-c", 'read -r _ && exec "$@"', "sh", *_bwrap(limits, mode), *_limited(limits), *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _group(limits, mode) as group:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd="/",
            env={"PATH": os.defpath},
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        timed_out = False
        try:
            if group is not None:
                group.add(process.pid)
            process.communicate(b"\n" + stdin.encode("utf-8", "replace"), timeout=limits.seconds * WALL_FACTOR)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # bubblewrap's child, the first process of its namespace, ends with it, and all others with that.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdin is not None:
                _close(process.stdin)
            process.wait()
        code = process.returncode
        timed_out = timed_out or code in (-signal.SIGXCPU, 128 + signal.SIGXCPU)
        return SandboxResult(code, _tail(out), _tail(err), timed_out)


@contextmanager
def _group(limits: SandboxLimits, mode: SandboxMode) -> Iterator[ControlGroup | None]:
    """Yield a control group for one run if the mode has one; end its processes and remove it after the block."""
    if not mode.has_group:
        yield None
        return
    # bubblewrap itself is two processes of the group.
    with control_group(f"sft-{os.getpid()}-{next(_RUNS)}", limits.memory, limits.processes + 2) as group:
        yield group


def _bwrap(limits: SandboxLimits, mode: SandboxMode) -> list[str]:
    """Return the command line of bubblewrap up to the program."""
    has = _bwrap_options()
    size = str(4 * limits.file_bytes)
    sized = ["--size", size] if "--size" in has else []
    interpreter = dict.fromkeys((sys.base_prefix, sys.prefix))
    return [
        *("bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *(["--disable-userns"] if "--disable-userns" in has else []),
        *("--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *(part for folder in SYSTEM_DIRS for part in ("--ro-bind-try", folder, folder)),
        *("--proc", "/proc", "--dev", "/dev", *sized, "--tmpfs", "/dev/shm", *sized, "--tmpfs", "/tmp"),
        *(part for folder in interpreter if not folder.startswith("/usr") for part in ("--ro-bind", folder, folder)),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--clearenv"),
        *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"),
        *("--setenv", "OMP_NUM_THREADS", "1", "--setenv", "OPENBLAS_NUM_THREADS", "1", "--"),
    ]


@cache
def _bwrap_options() -> str:
    """Return the help of bubblewrap, which lists the options that its version has."""
    return subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False).stdout


def _limited(limits: SandboxLimits) -> list[str]:
    """Return the command line that sets the limits and starts the program that follows."""
    numbers = (limits.seconds, limits.memory, limits.processes, limits.file_bytes)
    return [sys.executable, "-I", "-S", "-c", LIMITER, *map(str, numbers)]


def _tail(file: IO[bytes]) -> str:
    """Return the end of a file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    return file.read().decode("utf-8", "replace")


def _close(pipe: IO[bytes]) -> None:
    """Close a pipe whose reader may have ended."""
    try:
        pipe.close()
    except BrokenPipeError:
        return
