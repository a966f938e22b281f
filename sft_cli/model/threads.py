"""How many threads a CPU run computes with.

Sums over whole tensors depend on it in the last bit (rows are split among threads), so a run records its number and a
resumed run takes that.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import silu
from transformers import PretrainedConfig

from sft_cli.distributed.rank_env import place_of
from sft_cli.model.load import stated

VARIABLE = "OMP_NUM_THREADS"
ROUNDS = 7
"""Times that every number is tried, in turns: a neighbour on the machine disturbs all of them alike."""
TOKENS = 512
"""Most rows of the measured product."""
GAIN = 0.9
"""More threads are taken when their median time is below this share of fewer threads' time."""


@dataclass(frozen=True, slots=True)
class Threads:
    """A number of threads, and why as a clause."""

    number: int
    reason: str

    def sentence(self) -> str:
        """For the log."""
        return f"{self.number} {'thread' if self.number == 1 else 'threads'} ({self.reason})"


def choose_threads(
    asked: int | None,
    recorded: int | None,
    architecture: PretrainedConfig,
    *,
    tokens: int,
    dtype: torch.dtype,
    environment: Mapping[str, str] = os.environ,
) -> Threads:
    """The number for a CPU run: asked for, else the resumed run's own, else OMP_NUM_THREADS, else the fastest.

    Args:
        asked: ``speed.threads``.
        recorded: ``threads`` of the resumed run's environment.json; None for a new run.
        architecture: The model's own configuration, for the sizes that are timed.
        tokens: Tokens of a micro-batch.
        dtype: Compute type.
        environment: The process's variables.
    """
    cores = max(1, available_cores() // place_of().local_size)
    if asked is not None:
        return Threads(asked, "as asked for")
    if recorded is not None and recorded <= cores:
        return Threads(recorded, "as the run began")
    if environment.get(VARIABLE, "").isdecimal():
        return Threads(int(environment[VARIABLE]), VARIABLE)
    if cores == 1:
        return Threads(1, "one core")
    text = architecture.get_text_config()
    inner = stated(text, "intermediate_size") or 4 * text.hidden_size
    states = torch.ones(min(tokens, TOKENS), text.hidden_size, dtype=dtype)
    weights = torch.ones(inner, text.hidden_size, dtype=dtype)
    number = fastest(candidates(cores), lambda: silu(states @ weights.T))
    return Threads(number, f"the fastest of up to {cores} for a product of this model's sizes")


def use(threads: Threads) -> None:
    """Compute with that many from now on."""
    torch.set_num_threads(threads.number)


def available_cores() -> int:
    """Cores this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def candidates(cores: int) -> list[int]:
    """1, 2, 4 and so on, and all of them."""
    powers = [1 << place for place in range(cores.bit_length()) if 1 << place < cores]
    return [*powers, cores]


def fastest(numbers: list[int], work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> int:
    """The number of threads with the shortest median time; a larger one must be clearly faster.

    Args:
        numbers: What is tried, rising.
        work: A few milliseconds of work.
        clock: Seconds.
    """
    before = torch.get_num_threads()
    times: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for _ in range(ROUNDS):
            for number, own in times.items():
                torch.set_num_threads(number)
                work()  # wakes the threads
                started = clock()
                work()
                own.append(clock() - started)
    finally:
        torch.set_num_threads(before)
    medians = {number: sorted(own)[ROUNDS // 2] for number, own in times.items()}
    best = numbers[0]
    for number in numbers[1:]:
        if medians[number] < GAIN * medians[best]:
            best = number
    return best
