"""Commands in several processes: which of them reports, and who works first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from sft_cli.cli.loading import slow_imports
from sft_cli.distributed.rank_env import RankInfo, rank_from_env
from sft_cli.errors import Elsewhere, SftError

if TYPE_CHECKING:
    from sft_cli.config.schema.config import Config

T = TypeVar("T")


@contextmanager
def reported_once(rank: RankInfo) -> Iterator[None]:
    """Report an error only in the first process of a node, since all read the same words and files."""
    try:
        yield
    except SftError as error:
        if rank.local_rank:
            raise Elsewhere(2) from error
        raise


class MainFirst(Protocol):
    """Calls work that writes to the disk: in the first process, then in the others, which find it done."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return the result of the work."""
        ...


@contextmanager
def joined_processes(config: "Config") -> Iterator[MainFirst]:
    """Join the processes that a launcher has started; torch is not imported if there is only this one."""
    if rank_from_env().world_size == 1:
        yield lambda work: work()
        return
    with slow_imports():
        from sft_cli.eval.processes import evaluation_processes
    with evaluation_processes(config) as world:
        yield world.run_main_first
