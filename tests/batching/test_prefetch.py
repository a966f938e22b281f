"""Steps do not depend on the timing of the thread, and ``get`` raises the errors of the thread."""

import threading
import time

import numpy as np
import pytest
import torch

from sft_cli.batching.prefetch import Prefetcher
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from tests.train.helpers import answering, expected, predictions

CPU = torch.device("cpu")
STEPS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [3, 3, 0, 8], [1]]


class Rows:
    """Twelve examples with a common prompt; every third is replayed."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.examples = [
            answering([*range(20), *generator.integers(30, 99, 3 + k)], generator.integers(30, 99, 2 + k % 5))
            for k in range(12)
        ]
        self.sources = ["text" if k % 3 == 0 else "chat" for k in range(12)]

    def tokens(self, index: int):
        return self.examples[index]


SETTINGS = {"reduction": Reduction.token, "max_tokens": 64, "packed": True, "device": CPU}


def make_prefetcher(first=0, planned=STEPS.__getitem__, **settings) -> Prefetcher:
    return Prefetcher(Rows(), planned, first, len(STEPS), **{**SETTINGS, **settings})


def values_of(step) -> list:
    """Return all values of a step as lists."""
    batches = [(b.input_ids.tolist(), b.documents.parents, predictions(b)) for b in step.batches]
    return [batches, step.examples, step.tokens, step.computed_tokens, step.trained_tokens]


def all_steps(first=0, **settings) -> list:
    with make_prefetcher(first, **settings) as prefetcher:
        return [values_of(prefetcher.get(step)) for step in range(first, len(STEPS))]


def test_a_step_by_hand():
    """Examples have 20 + 3 + k + 2 + k ids, of which the last is not computed; 14 trained ids share the weight 1."""
    with make_prefetcher(max_tokens=1000) as prefetcher:
        step = prefetcher.get(0)
    assert (step.examples, step.tokens, step.trained_tokens) == (4, 25 + 27 + 29 + 31, 2 + 3 + 4 + 5)
    assert step.computed_tokens == step.tokens - 4
    (batch,) = step.batches
    weights = batch.target_weights.tolist()
    assert weights == pytest.approx([1 / 14] * 14)
    found = [(*one[:3], 1.0) for one in predictions(batch)]
    assert found == expected(Rows().examples[:4])


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("ranks", [1, 3])
def test_target_weights_of_a_step_sum_to_one_over_all_ranks(reduction, ranks):
    prefetchers = [
        make_prefetcher(reduction=reduction, world_size=ranks, rank=rank, share_prefixes=Choice.always)
        for rank in range(ranks)
    ]
    for number in range(len(STEPS)):
        steps = [prefetcher.get(number) for prefetcher in prefetchers]
        assert sum(float(batch.target_weights.sum()) for step in steps for batch in step.batches) == pytest.approx(1)
        assert len({len(step.batches) for step in steps}) == 1
        assert len({tuple(values_of(step)[1:]) for step in steps}) == 1
        assert sum(batch.input_ids.shape[1] for step in steps for batch in step.batches) == steps[0].computed_tokens
        assert sum(len(batch.targets) for step in steps for batch in step.batches) == steps[0].trained_tokens
    for prefetcher in prefetchers:
        prefetcher.close()


@pytest.mark.parametrize("first", range(len(STEPS)))
def test_a_step_does_not_depend_on_the_first_step(first):
    assert all_steps(first, share_prefixes=Choice.auto) == all_steps(share_prefixes=Choice.auto)[first:]


def test_steps_do_not_depend_on_timing():
    def slowly(step):
        time.sleep(0.02 * (step % 2))
        return STEPS[step]

    assert all_steps(planned=slowly) == all_steps()
    with make_prefetcher() as prefetcher:
        found = []
        for step in range(len(STEPS)):
            time.sleep(0.02 * (step % 2))
            found.append(values_of(prefetcher.get(step)))
    assert found == all_steps()


def test_sharing_reduces_computed_tokens():
    shared, plain = all_steps(share_prefixes=Choice.auto, max_tokens=200), all_steps(max_tokens=200)
    assert [step[3] for step in shared[:3]] == [step[3] - 3 * 20 for step in plain[:3]]
    assert [step[1:3] for step in shared] == [step[1:3] for step in plain]
    for one, other in zip(shared, plain, strict=True):
        assert sorted(p for batch in one[0] for p in batch[2]) == sorted(p for batch in other[0] for p in batch[2])


def test_an_unpacked_model_has_one_example_per_row():
    with make_prefetcher(packed=False, share_prefixes=Choice.always) as prefetcher:
        step = prefetcher.get(0)
    assert [batch.documents.lengths for batch in step.batches] == [(30,), (28,), (26,), (24,)]


@pytest.mark.parametrize(("replay", "sums"), [(None, [7 / 14, 7 / 14]), (0.25, [1, 0.25])], ids=["null", "lambda"])
def test_replayed_targets_are_marked_and_weighted(replay, sums):
    """In the first step, the examples 0 and 3 with 2 and 5 trained ids are replayed."""
    with make_prefetcher(replay_weight=replay, replay_sources={"text"}) as prefetcher:
        batches = prefetcher.get(0).batches
    weights, marks = torch.cat([b.target_weights for b in batches]), torch.cat([b.replay for b in batches])
    assert [float(weights[~marks].sum()), float(weights[marks].sum())] == pytest.approx(sums)


def test_a_run_without_replayed_sources_has_no_marks():
    with make_prefetcher() as prefetcher:
        assert prefetcher.get(0).batches[0].replay is None


def test_at_most_two_steps_are_built_in_advance():
    planned_steps = []

    def planned(step):
        planned_steps.append(step)
        return STEPS[step]

    with make_prefetcher(planned=planned) as prefetcher:
        prefetcher.get(0)
        time.sleep(0.3)
        assert planned_steps == [0, 1, 2]
        for step in range(1, len(STEPS)):
            prefetcher.get(step)
    assert planned_steps == list(range(len(STEPS)))


def test_get_raises_the_error_of_the_thread():
    def planned(step):
        if step == 1:
            raise OSError("the disk is missing")
        return STEPS[step]

    with make_prefetcher(planned=planned) as prefetcher:
        assert prefetcher.get(0).examples == 4
        with pytest.raises(OSError, match=r"^the disk is missing$"):
            prefetcher.get(1)


def test_only_planned_steps_in_order():
    with make_prefetcher(first=3) as prefetcher, pytest.raises(AssertionError, match="step 3 comes before step 4"):
        prefetcher.get(4)
    with make_prefetcher(first=len(STEPS)) as prefetcher, pytest.raises(AssertionError, match="step 5 was not planned"):
        prefetcher.get(5)


def test_close_stops_the_thread():
    before = set(threading.enumerate())
    prefetcher = make_prefetcher()
    prefetcher.get(0)
    own = set(threading.enumerate()) - before
    assert len(own) == 1
    prefetcher.close()
    assert not own & set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), make_prefetcher() as prefetcher:
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before
