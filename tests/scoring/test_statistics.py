"""Intervals, paired differences and the items needed: values by hand or from published tables, and simulations."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.scoring.distributions import sign_test, student_quantile, student_tail
from sft_cli.scoring.statistics import (
    Difference,
    Estimate,
    bootstrap,
    estimate_mean,
    holm,
    items_needed,
    paired_difference,
    pass_at_k,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (30, 2.0423), (1000, 1.9623), (10**6, 1.9600)]
)
def test_quantiles_of_student_t_are_those_of_tables(freedom, quantile):
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-5)
    assert student_tail(quantile, freedom) == pytest.approx(0.05, abs=5e-6)
    assert student_tail(-quantile, freedom) == student_tail(quantile, freedom)


@pytest.mark.parametrize(
    ("signs", "p"), [((0, 0), 1), ((5, 0), 1 / 16), ((1, 3), 10 / 16), ((2, 2), 1), ((8, 1), 20 / 512)]
)
def test_the_sign_test_counts_sequences(signs, p):
    assert sign_test(*signs) == pytest.approx(p)
    assert sign_test(*reversed(signs)) == pytest.approx(p)


@pytest.mark.parametrize(
    ("scores", "clusters", "expected"),
    [
        pytest.param([], [], (None, None, None, 0, 0), id="nothing"),
        pytest.param([0.5], [], (0.5, None, None, 1, 1), id="one"),
        pytest.param([1], [], (1, 0.2065, 1, 1, 1), id="one-right"),
        pytest.param([1] * 10, [], (1, 0.7225, 1, 10, 10), id="all-right"),
        pytest.param([0] * 10, [], (0, 0, 0.2775, 10, 10), id="all-wrong"),
        pytest.param([1] * 8 + [0] * 2, [], (0.8, 0.4902, 0.9433, 10, 10), id="wilson"),
        pytest.param([0.5] * 4, [], (0.5, 0.5, 0.5, 4, 4), id="equal"),
        pytest.param([1.0, 2.0, 4.0], [], (7 / 3, -1.4612, 6.1279, 3, 3), id="student"),
        pytest.param([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], list("aabbcc"), (7 / 3, -1.4612, 6.1279, 6, 3), id="doubled"),
        pytest.param([1.0, 2.0], list("aa"), (1.5, None, None, 2, 1), id="one-cluster"),
        pytest.param([1.0, 2.0, 4.0], ["", "", ""], (7 / 3, -1.4612, 6.1279, 3, 3), id="unnamed"),
    ],
)
def test_means_and_intervals(scores, clusters, expected):
    found = estimate_mean(scores, clusters)
    assert [found.value, found.low, found.high, found.n, found.clusters] == [
        value if value is None else pytest.approx(value, abs=6e-5) for value in expected
    ]


def test_equal_scores_of_clusters_count_clusters_and_not_items():
    """Ten paraphrases of one item say what one item says."""
    assert estimate_mean([1] * 10, ["a"] * 10) == Estimate(1, estimate_mean([1]).low, 1, 10, 1)
    wide, narrow = estimate_mean([1] * 10, list("aabbccddee")), estimate_mean([1] * 10)
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < 0.5 < narrow.low


def test_copies_of_items_widen_nothing_and_narrow_nothing():
    """Each item five times in a cluster: the interval of the items alone, up to Student's quantile."""
    once = [1.0] * 30 + [0.0] * 20
    copied = estimate_mean(once * 5, [str(index) for index in range(50)] * 5)
    alone = estimate_mean(once)
    assert (copied.n, copied.clusters) == (250, 50)
    assert copied.low == pytest.approx(alone.low, abs=0.01)
    assert copied.high == pytest.approx(alone.high, abs=0.01)
    assert estimate_mean(once * 5).low > copied.low + 0.05


def test_paired_difference_by_hand():
    """Differences 1, 1, 1, 1, 1, -1: mean 2/3, s = 0.8165; the signs 5 : 1 have p = 14/64."""
    found = paired_difference([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0])
    assert found is not None
    half = student_quantile(0.95, 5) * math.sqrt(2 / 3) / math.sqrt(6)
    assert (found.value, found.low) == (pytest.approx(2 / 3), pytest.approx(2 / 3 - half))
    assert (found.p_value, found.n, found.clusters) == (pytest.approx(14 / 64), 6, 6)


def test_swaps_are_enumerated():
    """Of the 8 ways to sign 1, 2, 4, two have a sum of 7 or -7, and four one of at least 5."""
    assert paired_difference([0, 0, 0], [1, 2, 4]).p_value == 2 / 8
    assert paired_difference([1, 0, 0], [0, 2, 4]).p_value == 4 / 8


def test_few_items_never_show_anything():
    """Five clusters have 32 ways to swap, two of them as extreme: p is at least 1/16."""
    found = paired_difference([0.0] * 25, [0.1] * 25, [str(index // 5) for index in range(25)])
    assert (found.p_value, found.error) == (2 / 32, pytest.approx(0))
    assert paired_difference([0.5] * 9, [0.5] * 9).p_value == 1
    assert paired_difference([0.2], [0.9]) == Difference(pytest.approx(0.7), None, None, 1.0, None, 1, 1)
    assert paired_difference([], []) is None


def test_randomized_and_asymptotic_p_values_agree():
    rng = np.random.default_rng(1)
    first, noise = rng.normal(size=400), rng.normal(size=400)
    sampled = paired_difference(list(first), list(first + 0.1 + noise))
    asymptotic = student_tail(sampled.value / sampled.error, 399)
    assert 0.005 < asymptotic < 0.5
    assert sampled.p_value == pytest.approx(asymptotic, abs=0.01)


def test_many_unequal_clusters_without_any_variance():
    clusters = [str(index) for index in range(500)] + ["0"]
    assert paired_difference([0.0] * 501, [0.25] * 501, clusters).p_value == pytest.approx(0, abs=1e-12)


def test_holm_adjusts_in_steps():
    """Smallest times 4, next times 3, …, never falling: the example of Holm's procedure by hand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []


def test_bootstrap_of_a_mean_is_near_its_interval():
    scores = list(np.random.default_rng(2).normal(size=200))
    clusters = [str(index // 4) for index in range(200)]

    def mean(chosen):
        return sum(scores[index] for index in chosen) / len(chosen)

    found, exact = bootstrap(mean, 200, clusters, 400), estimate_mean(scores, clusters)
    assert (found.value, found.clusters) == (pytest.approx(exact.value), 50)
    assert found.low == pytest.approx(exact.low, abs=0.03)
    assert found.high == pytest.approx(exact.high, abs=0.03)
    assert found == bootstrap(mean, 200, clusters, 400)
    assert bootstrap(mean, 0) == Estimate(None, None, None, 0, 0)
    assert bootstrap(lambda chosen: 0.5, 2, "aa") == Estimate(0.5, None, None, 2, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.lists(st.sampled_from("abc "), min_size=12, max_size=12))
def test_intervals_of_shares_stay_between_0_and_1(scores, clusters):
    names = [name.strip() for name in clusters[: len(scores)]]
    found = estimate_mean(scores, names)
    assert found.low is None or -1e-12 <= found.low <= found.value + 1e-9
    assert found.high is None or found.value - 1e-9 <= found.high <= 1 + 1e-12
    change = paired_difference(scores, scores[::-1], names)
    assert change.low is None or -1 <= change.low <= change.high <= 1


def test_scores_beyond_1_have_intervals_beyond_1():
    assert estimate_mean([0.5, 2.0, 9.0]).high > 9
    assert estimate_mean([0.9, 1.0, 1.0, 1.0, 0.5]).high == 1


def null_runs(rng, items, size):
    """Scores of two equally good runs, and clusters of ``size`` items that a run nearly always gets right together."""
    difficulty = rng.uniform(0.2, 0.8, items // size)
    clusters = [str(index // size) for index in range(items)]
    runs = []
    for _ in range(2):
        together = np.repeat(rng.random(items // size) < difficulty, size)
        flipped = rng.random(items) < 0.05
        runs.append((together ^ flipped).astype(float))
    return *runs, clusters


def flagged(pairs, items, size, *, use_clusters=True, seed=0):
    """Return how many of some comparisons of equally good runs have p below 0.05."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(pairs):
        first, second, clusters = null_runs(rng, items, size)
        found += paired_difference(first, second, clusters if use_clusters else ()).p_value < 0.05
    return found


@pytest.mark.parametrize("size", [1, 5])
def test_equal_runs_are_flagged_in_at_most_5_percent_of_200_comparisons(size):
    """A rate of exactly 5% gives more than 10 in four of ten seeds; the slow test below measures the rate."""
    assert 0 < flagged(200, 100, size, seed=1) <= 10


def test_ignoring_clusters_would_flag_equal_runs():
    assert flagged(200, 200, 5, use_clusters=False) > 40


@pytest.mark.slow
@pytest.mark.parametrize(("items", "size"), [(60, 1), (300, 1), (60, 5), (1000, 5), (3000, 5)])
def test_equal_runs_are_flagged_in_5_percent_of_1000_comparisons(items, size):
    """The true rate is at most 5%; 3 standard errors of 1,000 draws are 2.1%."""
    assert flagged(1000, items, size) / 1000 < 0.071


def intervals_covering(share, items, size, draws):
    """Return the share of intervals that contain the true share of right answers."""
    rng = np.random.default_rng(5)
    clusters = [str(index // size) for index in range(items)]
    covered = 0
    for _ in range(draws):
        together = np.repeat(rng.random(items // size) < share, size)
        found = estimate_mean(list(together.astype(float)), clusters if size > 1 else ())
        covered += found.low <= share <= found.high
    return covered / draws


@pytest.mark.parametrize(("share", "items", "size"), [(0.8, 100, 1), (0.5, 100, 5), (0.95, 300, 5)])
def test_intervals_of_shares_cover_the_truth(share, items, size):
    """95%, less the steps of a discrete score and three standard errors of 500 draws."""
    assert intervals_covering(share, items, size, 500) > 0.91


def power(effect, items, size, draws, seed=0):
    """Return how often a planted effect is found: runs whose clusters differ by an effect and by noise."""
    rng = np.random.default_rng(seed)
    clusters = [str(index // size) for index in range(items)]
    found = 0
    for _ in range(draws):
        noise = np.repeat(rng.normal(0, 0.4, items // size), size) + rng.normal(0, 0.2, items)
        found += paired_difference([0.0] * items, list(effect + noise), clusters).p_value < 0.05
    return found / draws


def predicted(effect, items, size, seed):
    """Return the items that one observed pair of runs predicts to be enough, if it shows the true effect."""
    rng = np.random.default_rng(seed)
    noise = np.repeat(rng.normal(0, 0.4, items // size), size) + rng.normal(0, 0.2, items)
    found = paired_difference(
        [0.0] * items, list(noise - noise.mean() + effect), [str(i // size) for i in range(items)]
    )
    return items_needed(found)


def test_planted_effect_is_found_at_the_predicted_number_of_items():
    """By the formula, power is 0.71 at 20% fewer items than needed, and 0.87 at 20% more."""
    needed = predicted(0.075, 2000, 5, seed=3)
    assert 1000 < needed < 1300
    assert 0.7 < power(0.075, needed // 5 * 5, 5, 200) < 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "size"), [(0.15, 1), (0.06, 1), (0.15, 5), (0.07, 5)])
def test_predicted_items_are_right_within_20_percent(effect, size):
    """80% of runs find the effect with the predicted number; 20% fewer items find it less often, 20% more, more."""
    needed = predicted(effect, 5000, size, seed=4)
    fewer, same, more = (power(effect, round(needed * f) // size * size, size, 600) for f in (0.8, 1.0, 1.2))
    assert fewer < 0.8 < more
    assert 0.71 < same < 0.87


@pytest.mark.slow
def test_predicted_items_of_right_and_wrong_answers():
    """3 points more, with 0/1 scores that agree on most items."""
    rng = np.random.default_rng(6)

    def runs(items):
        first = rng.random(items) < 0.6
        changed = rng.random(items)
        second = np.where(changed < 0.09, True, np.where(changed < 0.13, False, first))
        return first.astype(float), second.astype(float)

    needed = items_needed(paired_difference(*runs(200_000)))
    found = np.mean([paired_difference(*runs(needed)).p_value < 0.05 for _ in range(1000)])
    assert 0.71 < found < 0.87


def test_items_needed_by_hand():
    """(1.96 + 0.8416)² = 7.849 times the variance 100 * 0.05² over 0.1², and 1.92 more."""
    assert items_needed(Difference(0.1, 0, 0.2, 0.06, 0.05, 100, 100)) == math.ceil(100 * 7.8489 / 4 + 1.9207)
    assert items_needed(Difference(-0.1, 0, 0.2, 0.06, 0.05, 500, 100)) == math.ceil(5 * (100 * 7.8489 / 4 + 1.9207))
    assert items_needed(Difference(0.1, 0, 0.2, 0.06, 0.05, 100, 100), comparisons=10) > 300
    assert items_needed(Difference(0.0, 0, 0.2, 1, 0.05, 100, 100)) is None
    assert items_needed(Difference(0.1, None, None, 1, None, 5, 1)) is None
    assert items_needed(Difference(0.1, 0.1, 0.1, 0.5, 0.0, 2, 2)) == 6


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 0, 1), (5, 5, 5), (5, 2, 1), (5, 2, 3), (6, 1, 6), (4, 3, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_passed_sample(samples, passed, k):
    draws = list(combinations(range(samples), k))
    assert len(draws) == math.comb(samples, k)
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(min(draw) < passed for draw in draws) / len(draws))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@3 cannot be estimated from 1 of 2 samples"):
        pass_at_k(2, 1, 3)
