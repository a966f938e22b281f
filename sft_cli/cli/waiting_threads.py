"""How threads of a CPU run wait for each other: decided before torch loads libgomp, which reads it once."""

import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""A user who sets one of them decides."""
SPIN_COUNT = 4000
"""Turns of libgomp's loop until a waiting thread sleeps: 0.1 ms on a Zen 5 core, longer than the pauses between two
operations of a step, and far shorter than the time for which a busy machine takes a core away."""
SAMPLES, INTERVAL = 5, 0.002
"""Times that the running threads are counted, and seconds between them."""
LOAD = Path("/proc/loadavg")


def set_waiting(environment: MutableMapping[str, str], count_running: Callable[[], int] | None = None) -> None:
    """Let waiting threads spin for a bounded time on an idle machine, and sleep at once on a busy one.

    With two cores, one of them busy, 50 steps of the quickstart took 38 s with libgomp's own spinning (about 8 ms), 7 s
    with sleeping threads. On an idle machine sleeping costs 19 to 25% of the speed.

    Args:
        environment: The variables of this process and its children.
        count_running: Returns the number of running threads on this machine, this one included.
    """
    if any(name in environment for name in VARIABLES):
        return
    if is_idle(count_running or running_threads, os.cpu_count() or 1):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    else:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def is_idle(count_running: Callable[[], int], cores: int) -> bool:
    """Return whether at most a quarter of the cores is busy with anything else, at one of several moments.

    What runs all the time shows at each of them; what runs now and then does not.
    """
    least = count_running()
    for _ in range(SAMPLES - 1):
        time.sleep(INTERVAL)
        least = min(least, count_running())
    return least - 1 <= cores // 4


def running_threads() -> int:
    """Return the number of threads that run or wait for a core; many on systems that do not tell."""
    try:
        return int(LOAD.read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1 << 20
