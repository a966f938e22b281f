"""The process group of a run: collectives under torch's names, and a common end if one process fails."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from sft_cli.console import mute
from sft_cli.distributed.rank_env import RankInfo, cuda_device_index, export_torch_env, rank_from_env
from sft_cli.errors import Elsewhere, SftError

T = TypeVar("T")

GLOO_TIMEOUT = timedelta(days=7)
"""Timeout of the gloo group, long enough for rank 0 to prepare, save or export. The death of a process is noticed at
once, because its connections close."""
CONNECTION_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "recvValue failed",
    "sendBytes failed",
)
"""Error texts of gloo and of the store when another process has ended."""
FAILED_KEY = "sft_failed"


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. A run of one process has no process group.

    Attributes:
        info: The rank of this process, and the sizes.
        gloo_group: Process group on the CPU for barriers, objects and small values, with a very long timeout.
        store: Store in which processes announce failures.
    """

    info: RankInfo = field(default_factory=RankInfo)
    gloo_group: dist.ProcessGroup | None = None
    store: Store | None = None

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.info.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.info.world_size

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.size > 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes the shared files."""
        return self.info.is_main

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.gloo_group)
        return values[0]

    def all_gather_object(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order."""
        if not self.is_distributed:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.gloo_group)
        return values

    def barrier(self) -> None:
        """Wait until all ranks reach this call."""
        if self.is_distributed:
            dist.barrier(group=self.gloo_group)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the element-wise maximum over the ranks, computed on the CPU, so that no device is synchronised."""
        if not self.is_distributed:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.gloo_group)
        return tensor.tolist()

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, in place and on its device, and return it."""
        if self.is_distributed:
            dist.all_reduce(values)
        return values

    def all_reduce_sum_array(self, values: NDArray[np.float64]) -> None:
        """Replace an array by its sum over the ranks, in place, over gloo."""
        if self.is_distributed:
            dist.all_reduce(torch.from_numpy(values), group=self.gloo_group)

    def run_collectively(self, work: Callable[[], T]) -> T:
        """Call ``work`` on every rank; an error of any rank is raised on all of them.

        Raises:
            SftError: This rank failed, and no lower rank did.
            Elsewhere: Another rank failed, and prints its error.
        """
        if not self.is_distributed:
            return work()
        results: list[T] = []
        error: SftError | OSError | None = None
        try:
            results.append(work())
        except (SftError, OSError) as caught:
            error = caught
        failed = [rank for rank, has_failed in enumerate(self.all_gather_object(error is not None)) if has_failed]
        if not failed:
            return results[0]
        if error is not None and failed[0] == self.rank:
            raise error
        raise Elsewhere(2)

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Call ``work`` on rank 0 and return its result on every rank; its error is raised on all of them.

        The other ranks wait without a timeout.
        """
        return self.broadcast_object(self.run_collectively(lambda: [work()] if self.is_main else []))[0]

    def run_main_first(self, work: Callable[[], T]) -> T:
        """Call ``work`` on rank 0, then on the first rank of the other nodes, then on the rest; raise errors on all.

        For work that caches its result on disk: later ranks read it from there, on shared and on separate disks.
        """
        results = list[T]()
        turn = 0 if self.is_main else 1 if self.info.local_rank == 0 else 2
        for current in range(3 if self.is_distributed else 1):
            results += self.run_collectively(lambda is_turn=current == turn: [work()] if is_turn else [])
        return results[0]


_current_world = World()


def current_world() -> World:
    """Return the processes of the current run."""
    return _current_world


@contextmanager
def init_process_group(timeout_minutes: int, *, cuda: bool) -> Iterator[World]:
    """Join the process group described by the environment, if any, and leave it at the end of the block.

    An error inside the block also ends the other processes.

    Args:
        timeout_minutes: Timeout of a collective on tensors.
        cuda: Whether the tensors are on CUDA devices.

    Raises:
        SftError: Another process ended without reporting an error.
        Elsewhere: Another process failed and has printed its error.
    """
    global _current_world
    info = rank_from_env()
    if info.world_size == 1:
        yield _current_world
        return
    export_torch_env()
    if not info.is_main:
        mute()
    if cuda:
        torch.cuda.set_device(cuda_device_index(info, torch.cuda.device_count()))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=timeout_minutes))
    gloo_group = dist.new_group(backend="gloo", timeout=GLOO_TIMEOUT)
    assert isinstance(gloo_group, dist.ProcessGroup)
    _current_world = World(info, gloo_group, _connect_store())
    try:
        with _announcing_failures(_current_world):
            yield _current_world
        _current_world.barrier()
    finally:
        _current_world = World()
        dist.destroy_process_group()


@contextmanager
def _announcing_failures(world: World) -> Iterator[None]:
    """Announce an error of this process, so that the others do not report lost connections."""
    try:
        yield
    except (Elsewhere, SystemExit):
        raise
    except RuntimeError as error:
        if not any(text in str(error) for text in CONNECTION_LOST):
            _announce_failure(world)
            raise
        if _failure_announced(world):
            raise Elsewhere(1) from error
        raise SftError(
            where=f"process {world.rank} of {world.size}",
            problem="another process of the run ended without reporting an error",
            fix="find out why it ended (out of memory: dmesg, sacct), then: sft train --resume RUN",
        ) from error
    except SftError as error:
        if not _announce_failure(world):  # all processes have the same error: the first one reports it
            raise Elsewhere(2) from error
        raise
    except BaseException:
        _announce_failure(world)
        raise


def _announce_failure(world: World) -> bool:
    """Announce that this process failed and reports the error.

    Returns:
        Whether this is the first announced failure.
    """
    assert world.store is not None
    try:
        return world.store.add(FAILED_KEY, 1) == 1
    except RuntimeError:  # the process of the store has ended
        return False


def _failure_announced(world: World) -> bool:
    """Return whether a process has announced a failure; without a store, its process has announced none."""
    assert world.store is not None
    try:
        return world.store.check([FAILED_KEY])
    except RuntimeError:
        return False


def _connect_store() -> Store:
    """Return a client of the store at MASTER_ADDR and MASTER_PORT."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore("sft", TCPStore(address, port, is_master=False))
