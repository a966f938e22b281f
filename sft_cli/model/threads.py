"""The number of threads of a CPU run.

Sums over whole tensors depend on it in the last bit, because rows are split among threads. So a run records the number,
and a resumed run uses the same.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import silu
from transformers import PretrainedConfig

from sft_cli.distributed.rank_env import rank_from_env
from sft_cli.model.config_value import config_value

OMP_VARIABLE = "OMP_NUM_THREADS"
TIMING_ROUNDS = 7
"""How often each number is timed, in turns, so that other load on the machine affects all of them equally."""
TIMED_ROWS = 512
"""Number of rows of the timed product."""
MAX_TIME_RATIO = 0.9
"""More threads are used if their median time is below this fraction of the time with fewer."""


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """A number of threads, and the reason as a clause."""

    number: int
    reason: str

    def describe(self) -> str:
        """Describe the choice, for the log."""
        return f"{self.number} {'thread' if self.number == 1 else 'threads'} ({self.reason})"


def choose_threads(
    requested: int | None,
    recorded: int | None,
    architecture: PretrainedConfig,
    *,
    dtype: torch.dtype,
    environment: Mapping[str, str] = os.environ,
) -> ThreadChoice:
    """Return the number of threads: as configured, else of the resumed run, else OMP_NUM_THREADS, else the fastest.

    Args:
        requested: ``speed.threads``.
        recorded: ``threads`` of the resumed run's environment.json; None for a new run.
        architecture: The model's own configuration, for the sizes that are timed.
        dtype: Compute dtype.
        environment: The environment variables of the process.
    """
    cores = max(1, available_cores() // rank_from_env().local_world_size)
    if requested is not None:
        return ThreadChoice(requested, "as configured")
    if recorded is not None and recorded <= cores:
        return ThreadChoice(recorded, "as the run began")
    if environment.get(OMP_VARIABLE, "").isdecimal():
        return ThreadChoice(int(environment[OMP_VARIABLE]), OMP_VARIABLE)
    if cores == 1:
        return ThreadChoice(1, "one core")
    hidden_size = config_value(architecture, "hidden_size")
    if hidden_size is None:
        return ThreadChoice(cores, "all cores: this model's configuration has no single width")
    intermediate_size = config_value(architecture, "intermediate_size") or 4 * hidden_size
    states = torch.ones(TIMED_ROWS, hidden_size, dtype=dtype)
    weights = torch.ones(intermediate_size, hidden_size, dtype=dtype)
    number = fastest_thread_count(thread_counts(cores), lambda: silu(states @ weights.T))
    return ThreadChoice(number, f"the fastest of up to {cores} for a product of this model's sizes")


def set_num_threads(threads: ThreadChoice) -> None:
    """Use this number of threads from now on."""
    torch.set_num_threads(threads.number)


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts(cores: int) -> list[int]:
    """Return 1, 2, 4 and so on, and all cores."""
    powers = [1 << exponent for exponent in range(cores.bit_length()) if 1 << exponent < cores]
    return [*powers, cores]


def fastest_thread_count(
    numbers: list[int], work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> int:
    """Return the number of threads with the shortest median time; a larger one must be clearly faster.

    Args:
        numbers: The candidates, ascending.
        work: A function that computes for a few milliseconds.
        clock: Returns the time in seconds.
    """
    previous = torch.get_num_threads()
    times: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for _ in range(TIMING_ROUNDS):
            for number, thread_times in times.items():
                torch.set_num_threads(number)
                work()  # wakes the threads
                started = clock()
                work()
                thread_times.append(clock() - started)
    finally:
        torch.set_num_threads(previous)
    medians = {number: sorted(thread_times)[TIMING_ROUNDS // 2] for number, thread_times in times.items()}
    best = numbers[0]
    for number in numbers[1:]:
        if medians[number] < MAX_TIME_RATIO * medians[best]:
            best = number
    return best
