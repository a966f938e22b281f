"""Ask the items of a suite that have no answer yet, and write the answers as they come."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from sft_cli.distributed.process_group import World, current_world
from sft_cli.progress import Progress
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.results import Place, SuiteResults, place_of
from sft_cli.suites.turns import with_own_answers

Pending = Sequence[tuple[SuiteItem, int]]
"""Items, each with the number of the sample."""
Records = Iterator[list[dict[str, Any]]]
"""Lines of answers.jsonl, some at a time."""
AnswerItems = Callable[[LoadedSuite, Pending, EvalLimits], Records]
"""Function that answers items until a limit is reached: a model in this process, or a server."""


def places(suite: LoadedSuite) -> list[Place]:
    """Return the items and samples of a suite, in the order of its answers."""
    return [(entry.item.id, sample) for entry in suite.items for sample in range(suite.config.samples)]


def run_suite(
    answer: AnswerItems,
    suite: LoadedSuite,
    results: SuiteResults,
    limits: EvalLimits,
    progress: Progress,
    world: World | None = None,
) -> str:
    """Answer the items that have no answer yet; the processes share them.

    Second turns are asked when all first turns have their answers.

    Args:
        answer: Answers items.
        suite: The suite with its items.
        results: Its directory.
        limits: What is left of tokens, time and cost.
        progress: Shows the number of answers.
        world: The processes that share the items; None: all of the process group.

    Returns:
        The limit that stopped it, as ``key=value``; empty if every item has its answers.
    """
    world = current_world() if world is None else world
    wanted = places(suite)
    known = world.run_on_main(lambda: {place_of(record) for record in results.read_answers()})
    entries = {entry.item.id: entry for entry in suite.items}
    missing = [(entries[id], sample) for id, sample in wanted if (id, sample) not in known]
    counter = _Counter(len(wanted) - len(missing), len(wanted), progress, world)
    stopped = ""
    for is_second in (False, True):
        turn = [place for place in missing if bool(place[0].after) is is_second]
        if stopped or not turn:
            continue
        if is_second:
            turn = with_own_answers(turn, world.run_on_main(lambda: _own_answers(results)))
        share = shared_items(turn, world)
        answered = 0
        for records in answer(suite, share, limits):
            results.append_answers(records, world.rank)
            limits.count(records)
            answered += len(records)
            counter.add(len(records))
        reached = limits.reached() if answered < len(share) else ""
        stopped = next(filter(None, world.all_gather_object(reached)), "")
    world.run_on_main(lambda: len(results.sort_answers(wanted)))
    return stopped


def until_reached(batches: Generator[list[dict[str, Any]], None, None], limits: EvalLimits) -> Records:
    """Yield batches of lines until a limit is reached; the caller counts them."""
    while not limits.reached() and (records := next(batches, None)) is not None:
        yield records
    batches.close()


def shared_items(pending: Pending, world: World) -> Pending:
    """Return the share of this process; the samples of an item stay in one process, which computes its prompt once."""
    numbers = {id: number for number, id in enumerate(dict.fromkeys(entry.item.id for entry, _ in pending))}
    return [place for place in pending if numbers[place[0].item.id] % world.size == world.rank]


class _Counter:
    """Shows the number of answers of all processes, estimated from those of this one."""

    def __init__(self, done: int, total: int, progress: Progress, world: World) -> None:
        self._done, self._total, self._progress, self._size = done, total, progress, world.size
        progress.update(done, total)

    def add(self, number: int) -> None:
        """Count answers of this process."""
        self._done += number * self._size
        self._progress.update(min(self._done, self._total), self._total)


def _own_answers(results: SuiteResults) -> dict[Place, str]:
    """Return the answers on disk by item and sample."""
    return {place_of(record): str(record["answer"]) for record in results.read_answers()}
