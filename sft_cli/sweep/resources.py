"""Divide the GPUs and cores of this machine among the members that run at the same time."""

import os
import sys
from collections.abc import Mapping, Sequence

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import Auto
from sft_cli.config.schema.trainer import Device
from sft_cli.distributed.launch import count_gpus
from sft_cli.errors import SftError

THREADS, CARDS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"


def member_environments(parallel: int, configs: Sequence[Config]) -> list[dict[str, str]]:
    """Return the environment variables of each parallel member on this machine.

    Raises:
        SftError: This process is one of several, or a member needs more GPUs than its share.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1":
        raise SftError(
            where=f"WORLD_SIZE={size}",
            problem="a sweep must run in one process, which starts the members",
            fix="remove torchrun, accelerate launch or srun; launcher.nproc=N gives each member N processes",
        )
    number = count_gpus()
    cards = os.environ[CARDS].split(",") if number and CARDS in os.environ else [str(card) for card in range(number)]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if parallel > 1 and number:
        least = max(1, number // parallel)
        for config in configs:
            nproc = config.launcher.nproc
            if not isinstance(nproc, Auto) and nproc > least and config.trainer.device is not Device.cpu:
                raise SftError(
                    where=f"--parallel {parallel}",
                    problem=f"each member has {nproc} processes, but {number} GPUs give it {least}",
                    fix=f"--parallel {max(1, number // nproc)}, or launcher.nproc={least}",
                )
    return split_resources(parallel, cards, cores, os.environ)


def split_resources(
    parallel: int, cards: Sequence[str], cores: int, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the additional environment variables of each parallel member.

    A single member uses the machine as ``sft train`` does. Several members share its cores and GPUs, each with its own
    GPUs if there are enough.

    Args:
        parallel: Number of parallel members.
        cards: The GPUs, as CUDA_VISIBLE_DEVICES names them.
        cores: Cores of the machine.
        environment: The environment of the sweep.
    """
    if parallel == 1:
        return [{}]
    threads = {} if THREADS in environment else {THREADS: str(max(1, cores // parallel))}
    environments = []
    for slot in range(parallel):
        share = cards[slot * len(cards) // parallel : (slot + 1) * len(cards) // parallel]
        if cards and not share:
            share = [cards[slot % len(cards)]]
        environments.append(threads | ({CARDS: ",".join(share)} if share else {}))
    return environments
