"""Call functions that may never return, such as a regular expression on a hostile text, with a limit of time.

The call runs in a worker process that the kernel ends after so much processor time, so that it works in any thread,
while ``re`` holds the interpreter lock, and alike on a busy machine. This process sets no signal handler.
``python -m sft_cli.scoring.bounded`` is the worker: it reads a request per line, ``[seconds, function, arguments]``,
and writes a reply per line.
"""

import atexit
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

MEMORY = 2 << 30
"""Bytes of address space of the worker: ``9**9**9`` shall not take the machine's memory."""
BARE = 100
"""Longest text that is read as a formula although nothing marks it as one."""
_LOCK = threading.Lock()
_WORKERS: dict[int, subprocess.Popen[str]] = {}
"""Process id -> its worker: a forked process does not use its parent's."""


def search(pattern: str, text: str, flags: int, whole: bool) -> str | None:
    """Return the text that a pattern matches: its group 1 if it has one; None if there is no match."""
    match = re.fullmatch(pattern, text, flags) if whole else re.search(pattern, text, flags)
    if match is None:
        return None
    return (match[1] or "") if match.re.groups else match[0]


def equal_math(answer: str, target: str, decimals: int) -> tuple[bool, str | None]:
    """Return whether an answer is the target in value, by math-verify, and what was read from the answer."""
    from math_verify import parse, verify

    def read(text: str) -> list[Any]:
        marked = f"${text}$" if _is_formula(text) else text
        return parse(marked, parsing_timeout=0) or parse(text, parsing_timeout=0)

    gold, found = read(target), read(answer)
    if not gold or not found:
        return False, str(found[-1]) if found else None
    equal = verify(gold, found, float_rounding=decimals, timeout_seconds=0)
    return bool(equal), str(found[-1])[:200]


def _is_formula(text: str) -> bool:
    """Return whether a text is a formula although nothing marks it as one: short, without words."""
    if len(text) > BARE or re.search(r"[$%\n]|\\boxed", text):
        return False
    rest = re.sub(r"\\[A-Za-z]+|sin|cos|tan|log|ln|exp|sqrt|pi", " ", text)
    return re.search(r"[A-Za-z]{2}", rest) is None and re.search(r"[\^=+*/\\-]", text) is not None


def find_schema_error(schema: Any, value: Any) -> str | None:
    """Return the first violation of a JSON Schema by a value; None if there is none. No reference is fetched."""
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        error = next(validator_for(schema)(schema, registry=Registry()).iter_errors(value), None)
    except Exception as problem:  # an unresolved reference, an invalid pattern, or nesting too deep
        return f"the schema cannot be applied: {type(problem).__name__}"
    return f"{error.json_path}: {error.message}"[:300] if error is not None else None


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "search": search,
    "equal_math": equal_math,
    "find_schema_error": find_schema_error,
}
"""Functions that the worker calls by name."""


WARM_UP: Mapping[str, list[Any]] = {"equal_math": ["$x^2$", "$x$", 6], "find_schema_error": [{}, 1]}
"""Arguments of a first call, which imports packages and does not count towards the limit."""


def call_bounded(name: str, *arguments: Any, seconds: float) -> Any:
    """Return the value of one of ``FUNCTIONS``.

    Raises:
        TimeoutError: It took more than ``seconds`` of processor time, or more memory than ``MEMORY``.
    """
    with _LOCK:
        worker = _WORKERS.get(os.getpid())
        if worker is None or worker.poll() is not None:
            worker = _WORKERS[os.getpid()] = _start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps([seconds, name, arguments]) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _stop(_WORKERS.pop(os.getpid()))
            raise TimeoutError(f"{name} did not end within {seconds:g} s of processor time")
    kind, value = json.loads(line)
    if kind == "memory":
        raise TimeoutError(f"{name} needed too much memory")
    return value


def _start() -> subprocess.Popen[str]:
    """Start a worker."""
    return subprocess.Popen(
        [sys.executable, "-m", "sft_cli.scoring.bounded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def _stop(worker: subprocess.Popen[str]) -> None:
    """End a worker and close its pipes."""
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except BrokenPipeError:
            continue  # what was not yet written to an ended worker
    worker.wait()


@atexit.register
def _stop_all() -> None:
    """End the worker of this process."""
    worker = _WORKERS.pop(os.getpid(), None)
    if worker is not None:
        _stop(worker)


def _reply(name: str, arguments: list[Any]) -> tuple[str, Any]:
    """Return the kind of a reply and the value; no value for a call that failed."""
    try:
        return "value", FUNCTIONS[name](*arguments)
    except MemoryError:
        return "memory", None
    except Exception:  # sympy and its parser raise anything; the answer is then not equal
        return "value", None


def _serve() -> None:
    """Answer requests until the parent closes the pipe; the kernel ends the process at a call's limit."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warm: set[str] = set()
    for line in sys.stdin:
        seconds, name, arguments = json.loads(line)
        if name in WARM_UP and name not in warm:
            warm.add(name)
            _reply(name, WARM_UP[name])
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = _reply(name, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
