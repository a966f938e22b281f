"""Tasks in several processes: order, one state per process, and killed processes."""

import multiprocessing
import os
import signal
import time

import pytest

from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.utils import workers


class Adder:
    """Adds numbers, slowly for even ones, so that results finish out of order."""

    def __init__(self, amount):
        self.amount = amount

    def work(self, number):
        """The sum, and the process that made it."""
        if number % 2 == 0:
            time.sleep(0.02)
        return number + self.amount, os.getpid()

    def refuse(self, number):
        """A row's problem for the third task."""
        if number == 3:
            raise RowError(where="rows.jsonl:3", reason="odd", problem="it is three", fix="write two")
        return number

    def die(self, number):
        """Killed as by the kernel when memory runs out."""
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


class Broken:
    """State whose creation fails."""

    def __init__(self):
        raise RowError(where="rows.jsonl", reason="no", problem="it cannot begin", fix="repair it")

    def work(self, number):
        return number


class Begun(Adder):
    """State that leaves a file every time it is created."""

    def __init__(self, folder):
        super().__init__(0)
        (folder / str(time.perf_counter_ns())).touch()


class Toucher:
    """Leaves a file for every task."""

    def __init__(self, folder):
        self.folder = folder

    def work(self, number):
        (self.folder / str(number)).touch()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_tasks(processes):
    found = list(workers.run(Adder, (10,), Adder.work, list(range(20)), processes))
    assert [result for result, _ in found] == list(range(10, 30))
    assert (os.getpid() in {process for _, process in found}) == (processes == 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_problem_found_in_a_process_arrives_whole(processes):
    with pytest.raises(RowError) as caught:
        list(workers.run(Adder, (0,), Adder.refuse, [1, 2, 3, 4], processes))
    assert (str(caught.value), caught.value.reason) == ("rows.jsonl:3: it is three\n  fix: write two", "odd")


def test_killed_process_is_one_error():
    with pytest.raises(SftError) as caught:
        list(workers.run(Adder, (0,), Adder.die, [1, 2, 3, 4], 2))
    assert str(caught.value) == (
        "a worker process: the process was killed, probably because the machine ran out of memory\n"
        "  fix: try again with fewer processes: data.workers=1 (finished parts are kept)"
    )


def test_no_tasks_start_no_process():
    assert list(workers.run(Adder, (0,), Adder.die, [], 2)) == []


def test_few_rows_are_not_worth_a_process():
    assert (workers.worth(workers.SMALL - 1, 8), workers.worth(workers.SMALL, 8)) == (1, 8)


@pytest.mark.parametrize("processes", [1, 2])
def test_sweep_start_errors(processes):
    with pytest.raises(RowError, match="it cannot begin"):
        list(workers.run(Broken, (), Broken.work, [1, 2, 3], processes))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_consumer_that_stops_leaves_no_process(processes):
    results = workers.run(Adder, (0,), Adder.work, list(range(20)), processes)
    next(results)
    children = multiprocessing.active_children()
    assert len(children) == (2 if processes == 2 else 0)
    results.close()
    # Asked again and again: while the pool's own thread collects a child, one question finds neither it nor its end.
    until = time.monotonic() + 10
    while any(child.is_alive() for child in children) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(child.is_alive() for child in children)


def test_no_more_is_handed_out_than_can_be_kept(tmp_path):
    """While the first result is looked at, only so many of the others are made."""
    results = workers.run(Toucher, (tmp_path,), Toucher.work, list(range(40)), 2)
    next(results)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 2 * workers.AHEAD + 1
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_state_is_created_once_per_process(tmp_path, processes):
    found = list(workers.run(Begun, (tmp_path,), Begun.work, list(range(12)), processes))
    assert len(list(tmp_path.iterdir())) == len({process for _, process in found})
