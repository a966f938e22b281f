"""Properties of a mix for any pools and weights."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from mix_pools import pools

from sft_cli.config.schema.data import DataConfig, SourceConfig, StageConfig, StoppingStrategy, Strategy
from sft_cli.data.mixing.epoch_draw import draw_epoch
from tests.data.mix_helpers import drawn, mixed

sizes = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=40), min_size=1, max_size=5)

numbers = st.floats(0.05, 5)


@st.composite
def mixes(draw_from, strategies=tuple(Strategy), stops=tuple(StoppingStrategy)):
    """Draw a mix of up to five sources without epochs, and its rows."""
    rows = {f"s{number}": tokens for number, tokens in enumerate(draw_from(sizes))}
    caps = st.none() | st.integers(1, 50)
    mix = {name: SourceConfig(weight=draw_from(numbers), cap=draw_from(caps)) for name in rows}
    strategy, stop = draw_from(st.sampled_from(strategies)), draw_from(st.sampled_from(stops))
    total = draw_from(st.integers(1, 300)) if stop is StoppingStrategy.total_rows else None
    temperature = draw_from(st.floats(1, 5))
    return DataConfig(
        mix=mix, strategy=strategy, stopping_strategy=stop, total_rows=total, temperature=temperature
    ), rows


def intended(data: DataConfig, rows: dict[str, list[int]]) -> list[float]:
    """Return the shares of a mix from the formulas of the strategies."""
    parts = []
    for name, source in data.mix.items():
        counted = min(len(rows[name]), source.cap or len(rows[name])) * source.weight
        by_size = {Strategy.proportional: counted, Strategy.temperature: counted ** (1 / data.temperature)}
        parts.append(by_size.get(data.strategy, source.weight))
    return [part / sum(parts) for part in parts]


@given(mixes(strategies=(Strategy.proportional, Strategy.equal, Strategy.temperature)))
def test_shares_of_rows_are_met_within_one_row(case):
    data, rows = case
    (realised,) = drawn(data, rows)
    shares = intended(data, rows)
    if data.stopping_strategy is StoppingStrategy.total_rows:
        assert sum(realised) == data.total_rows
        for count, share in zip(realised, shares, strict=True):
            assert abs(count - share * sum(realised)) < 1 + 1e-6
    elif data.strategy is Strategy.proportional:
        for count, (name, source) in zip(realised, data.mix.items(), strict=True):
            assert abs(count - source.weight * min(len(rows[name]), source.cap or 99)) <= 1
    else:
        ends = [len(rows[name]) / share for name, share in zip(data.mix, shares, strict=True)]
        length = min(ends) if data.stopping_strategy is StoppingStrategy.first_exhausted else max(ends)
        for count, share in zip(realised, shares, strict=True):
            assert abs(count - share * length) <= 1


@given(mixes(strategies=(Strategy.trained_tokens,)))
def test_shares_of_trained_tokens_are_met_within_one_row_of_each_source(case):
    data, rows = case
    made = draw_epoch(data, pools(data, rows), 0)
    tokens = [int(made.copies(i) @ np.array(own)) for i, own in enumerate(rows.values())]
    shares, row = intended(data, rows), [max(own) for own in rows.values()]
    if data.stopping_strategy is StoppingStrategy.total_rows:
        assert sum(int(made.copies(i).sum()) for i in range(len(rows))) == data.total_rows
        scale = min((count + most) / share for count, share, most in zip(tokens, shares, row, strict=True))
    else:
        ends = [sum(own) / share for own, share in zip(rows.values(), shares, strict=True)]
        scale = min(ends) if data.stopping_strategy is StoppingStrategy.first_exhausted else max(ends)
    for count, share, most in zip(tokens, shares, row, strict=True):
        assert abs(count - share * scale) <= 2 * most


@given(mixes(strategies=(Strategy.equal, Strategy.temperature, Strategy.trained_tokens)))
def test_epoch_ends_by_the_stopping_strategy(case):
    data, rows = case
    copies = [draw_epoch(data, pools(data, rows), 0).copies(i) for i in range(len(rows))]
    if data.stopping_strategy is StoppingStrategy.first_exhausted:
        assert max(int(own.max()) for own in copies) == 1, "no row is repeated"
        assert any(own.min() == 1 for own in copies), "and one source is used up"
    elif data.stopping_strategy is StoppingStrategy.all_exhausted:
        assert all(own.min() >= 1 for own in copies), "every row is seen"
        assert any(own.max() == 1 for own in copies), "and one source not more than once"


@given(mixes(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_passes_are_even_in_any_order_of_rows(case, seed, random):
    data, rows = case
    made = draw_epoch(data, pools(data, rows), seed)
    shuffled, orders = [], []
    for own in pools(data, rows):
        order = list(range(len(own.keys)))
        random.shuffle(order)
        orders.append(order)
        trained = own.trained_tokens[order]
        shuffled.append(type(own)(own.name, own.source, own.keys[order], trained, 2 * trained))
    again = draw_epoch(data, shuffled, seed)
    for place, order in enumerate(orders):
        copies = made.copies(place)
        assert copies.max() - copies.min() <= 1
        assert np.array_equal(copies[order], again.copies(place))


@given(st.integers(1, 40), numbers, numbers)
def test_larger_weight_only_adds_rows(num_rows, first, second):
    few, many = (DataConfig(mix=mixed(a=weight)) for weight in sorted((first, second)))
    rows = {"a": [1] * num_rows}
    assert (draw_epoch(few, pools(few, rows), 1).copies(0) <= draw_epoch(many, pools(many, rows), 1).copies(0)).all()


@given(mixes(), st.integers(1, 3))
def test_equal_stages_contain_the_rows_of_one_stage(case, num_stages):
    data, rows = case
    assume(data.stopping_strategy is not StoppingStrategy.total_rows or data.total_rows >= len(rows))
    whole = draw_epoch(data, pools(data, rows), 0)
    staged = draw_epoch(DataConfig(**{**vars(data), "stages": [StageConfig()] * num_stages}), pools(data, rows), 0)
    for place in range(len(rows)):
        assert np.array_equal(whole.copies(place), staged.copies(place))
        parts = [int(stage.copies[place].sum()) for stage in staged.stages]
        most = max(rows[f"s{place}"]) / min(rows[f"s{place}"]) if data.strategy is Strategy.trained_tokens else 1
        if most == 1:
            assert max(parts) - min(parts) <= 1
