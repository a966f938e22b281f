"""Run fuzzed calls and check them: an SftError or success, in time, without outside files, programs or connections."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from sft_cli.error_boundary import ENVIRONMENT
from sft_cli.errors import SftError

SECONDS = 10.0
"""Most CPU seconds of one input; the slowest valid ones take 0.3."""
ROUND = 2_000
"""Inputs per seed: hypothesis stores tried inputs and slows down with their number."""
_WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate"}
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "ctypes.dlopen"}


class Hang(BaseException):
    """An input took longer than ``SECONDS``."""


class Outside(BaseException):
    """An input wrote outside the temporary directory, or started another program or a connection."""


@dataclass
class TargetResult:
    """Results of one fuzzed target.

    Attributes:
        inputs: Number of inputs.
        slowest: Seconds of the slowest input.
        outcomes: ``sentence`` (an SftError) or ``accepted`` -> number of inputs.
        failures: The kind and place of each failure -> the input and its traceback.
    """

    inputs: int = 0
    slowest: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


_inside: str | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    if event in _NEVER:
        raise Outside(f"{event}{arguments!r:.200}")
    if event in _WRITES or (event == "open" and _for_writing(arguments)):
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and not os.path.abspath(path).startswith((_inside, "/dev/null")):
            raise Outside(f"{event} {path}")


def _for_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(mark in mode for mark in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def watch(target: Callable[[Any], str | None], value: Any, folder: Path, found: TargetResult) -> None:
    """Run one input and record its outcome."""
    global _inside
    found.inputs += 1
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _inside = str(folder)
    try:
        outcome = target(value) or "accepted"
    except SftError:
        outcome = "sentence"
    except OSError as error:
        outcome = "sentence" if error.errno in ENVIRONMENT else _note(found, error, value)
    except (Exception, Hang, Outside) as error:
        outcome = _note(found, error, value)
    finally:
        _inside = None
        signal.setitimer(signal.ITIMER_PROF, 0)
    found.outcomes[outcome] += 1
    found.slowest = max(found.slowest, time.process_time() - began)


def _note(found: TargetResult, error: BaseException, value: Any) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "sft_cli" in frame.filename] or frames
    key = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    if key not in found.failures:
        found.failures[key] = f"{value!r:.3000}\n{''.join(traceback.format_exception(error))[-3000:]}"
        print(f"--- {key}\n{found.failures[key]}", flush=True)
    return "failure"


def fuzz(
    strategy: SearchStrategy[Any],
    target: Callable[[Any], str | None],
    inputs: int,
    first: int,
    say: Callable[[str], None],
) -> TargetResult:
    """Run a number of inputs of a strategy, in an order set by the first seed."""
    found = TargetResult()
    signal.signal(signal.SIGPROF, _late)
    sys.addaudithook(_audit)
    with tempfile.TemporaryDirectory(prefix="sft-fuzz-") as name:
        folder = Path(name).resolve()
        before = Path.cwd()
        os.chdir(folder)
        try:
            for number, start in enumerate(range(0, inputs, ROUND)):

                @seed(first + number)
                @settings(
                    max_examples=min(ROUND, inputs - start),
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(strategy)
                def once(value: Any) -> None:
                    watch(target, value, folder, found)

                once()
                say(f"{found.inputs:,} inputs, {dict(found.outcomes)}, slowest {found.slowest:.2f} s")
        finally:
            os.chdir(before)
    return found


def _late(number: int, frame: Any) -> None:
    raise Hang
