"""How the processes of a run meet, wait for each other, agree, and end together when one fails."""

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
from sft_cli.distributed.rank_env import Place, adopt, place_of
from sft_cli.errors import Elsewhere, SftError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long the others wait while one prepares, saves or exports: as long as it takes. A process that dies is noticed at
once, because its connections close."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recvValue failed", "sendBytes failed")
"""What gloo and the store say when another process is gone."""
FAILED = "sft_failed"


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them. A run of one process has no groups.

    Attributes:
        place: Which one this is.
        quiet: Group for waiting and for small values: over gloo, in main memory, without a limit of time.
        store: Where a failure is announced.
    """

    place: Place = field(default_factory=Place)
    quiet: dist.ProcessGroup | None = None
    store: Store | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self.place.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.place.first

    def share(self, value: T) -> T:
        """The first one's value."""
        if not self.several:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.quiet)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Everybody's values, by rank."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.place.size
        dist.all_gather_object(found, value, group=self.quiet)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.several:
            dist.barrier(group=self.quiet)

    def most(self, values: Sequence[int]) -> list[int]:
        """The largest value of any process at each place; in main memory, no device waits for it."""
        if not self.several:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.quiet)
        return tensor.tolist()

    def add(self, values: NDArray[np.float64]) -> None:
        """Make an array the sum of everybody's, in place."""
        if self.several:
            dist.all_reduce(torch.from_numpy(values), group=self.quiet)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of everybody's tensors, on their device."""
        if self.several:
            dist.all_reduce(values)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """Do something on all; a mistake of any process is told by it, and ends all.

        Raises:
            SftError: This one's, or rank 0's where several failed.
            Elsewhere: Another one failed.
        """
        if not self.several:
            return work()
        done: list[T] = []
        error: SftError | OSError | None = None
        try:
            done.append(work())
        except (SftError, OSError) as caught:
            error = caught
        failed = [rank for rank, wrong in enumerate(self.gather(error is not None)) if wrong]
        if not failed:
            return done[0]
        if error is not None and failed[0] == self.place.rank:
            raise error
        raise Elsewhere(2)

    def by_first(self, work: Callable[[], T]) -> T:
        """Do something on the first one alone, while the others wait as long as it takes; they get its value."""
        return self.share(self.together(lambda: [work()] if self.first else []))[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do what keeps its result on a disk: the first process, then the first of every other node, then the rest.

        The others find it kept, whether the nodes share a disk or not.
        """
        done = list[T]()
        turn = 0 if self.first else 1 if self.place.local_rank == 0 else 2
        for now in range(3 if self.several else 1):
            done += self.together(lambda mine=now == turn: [work()] if mine else [])
        return done[0]


_here = Ranks()


def here() -> Ranks:
    """The processes of this run."""
    return _here


@contextmanager
def joined(timeout_minutes: int, *, cuda: bool) -> Iterator[Ranks]:
    """Meet the other processes, if there are any; a failure in here ends them, too.

    Args:
        timeout_minutes: How long one exchange of tensors may take.
        cuda: Whether tensors lie on this node's CUDA devices.

    Raises:
        SftError: Another process is gone without a word.
        Elsewhere: Another process failed and has said why.
    """
    global _here
    place = place_of()
    if place.size == 1:
        yield _here
        return
    adopt()
    if not place.first:
        mute()
    if cuda:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=timeout_minutes))
    quiet = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(quiet, dist.ProcessGroup)
    _here = Ranks(place, quiet, _store())
    try:
        with _failing_together(_here):
            yield _here
        _here.wait()
    finally:
        _here = Ranks()
        dist.destroy_process_group()


@contextmanager
def _failing_together(ranks: Ranks) -> Iterator[None]:
    """Announce a failure, so that the others do not call their lost connections one."""
    try:
        yield
    except (Elsewhere, SystemExit):
        raise
    except RuntimeError as error:
        if not any(text in str(error) for text in LOST):
            _announce(ranks)
            raise
        if _announced(ranks):
            raise Elsewhere(1) from error
        raise SftError(
            where=f"process {ranks.place.rank} of {ranks.place.size}",
            problem="another process of the run ended without a word",
            fix="look for what ended it (out of memory: dmesg, sacct), then resume with the same number or another",
        ) from error
    except SftError as error:
        if not _announce(ranks):  # all made the same mistake at once
            raise Elsewhere(2) from error
        raise
    except BaseException:
        _announce(ranks)
        raise


def _announce(ranks: Ranks) -> bool:
    """Tell that this process failed and says why itself; whether it is the first to tell."""
    assert ranks.store is not None
    try:
        return ranks.store.add(FAILED, 1) == 1
    except RuntimeError:  # the store went with the process that held it
        return False


def _announced(ranks: Ranks) -> bool:
    """Whether some process failed and said so; the store is gone only with a process that did."""
    assert ranks.store is not None
    try:
        return ranks.store.check([FAILED])
    except RuntimeError:
        return False


def _store() -> Store:
    """A client of the store where all meet."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore("sft", TCPStore(address, port, is_master=False))
