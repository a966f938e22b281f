"""Stages of a data mix: rows of each, passes, and no repeated row."""

import numpy as np
import pytest
from mix_pools import pools

from sft_cli.config.schema.data import DataConfig, StageConfig, StoppingStrategy, Strategy
from sft_cli.data.mixing.epoch_draw import draw_epoch
from tests.data.mix_helpers import drawn, mixed

STAGES = [
    pytest.param(
        [StageConfig(share=3.0, mix={"a": 1.0}), StageConfig(share=1.0, mix={"b": 1.0, "a": 1.0})],
        {"strategy": Strategy.equal, "stopping_strategy": StoppingStrategy.total_rows, "total_rows": 40},
        [[30, 0], [5, 5]],
        id="shares of the epoch, mixes of their own",
    ),
    pytest.param(
        # over both stages a gives 7/8 and b 1/8 of the rows: a's 10 rows are 7/8 of 11.43
        [StageConfig(share=3.0, mix={"a": 1.0}), StageConfig(share=1.0, mix={"b": 1.0, "a": 1.0})],
        {"strategy": Strategy.equal},
        [[9, 0], [1, 1]],
        id="an epoch ends where all stages together exhaust a source",
    ),
    pytest.param(
        [StageConfig(), StageConfig()],
        {},
        [[5, 10], [5, 10]],
        id="proportional: as many rows as without stages",
    ),
    pytest.param(
        [StageConfig(mix={"b": 1.0}), StageConfig(mix={"a": 1.0})],
        {},
        [[0, 15], [15, 0]],
        id="proportional: other weights, the same number of rows",
    ),
    pytest.param(
        # half of 30 rows each; inside the second 1 token of a to 3 of b, whose rows have 4 and 2: rows 1/4 to 3/2
        [StageConfig(mix={"b": 1.0}), StageConfig(mix={"a": 1.0, "b": 3.0})],
        {"strategy": Strategy.trained_tokens, "stopping_strategy": StoppingStrategy.total_rows, "total_rows": 28},
        [[0, 14], [2, 12]],
        id="shares of tokens inside stages",
    ),
    pytest.param(
        [StageConfig(mix={"b": 1.0}, share=3.0), StageConfig(mix={"b": 1.0, "a": 1.0}, share=1.0)],
        {"mix": mixed(a={"epochs": 2.0}, b=1.0)},
        [[0, 15], [20, 5]],
        id="epochs fall into the stages that name the source",
    ),
    pytest.param(
        [StageConfig(mix={"b": 1.0, "a": 1.0}), StageConfig(mix={"a": 3.0})],
        {"mix": mixed(a={"epochs": 2.0}, b=1.0)},
        [[5, 20], [15, 0]],
        id="a stage of epochs alone; the weights spread the passes",
    ),
    pytest.param(
        [StageConfig(share=3.0), StageConfig()],
        {"mix": mixed(a={"epochs": 2.0}, b=1.0)},
        [[15, 15], [5, 5]],
        id="passes are spread by the shares of the stages",
    ),
]


@pytest.mark.parametrize(("stages", "settings", "rows"), STAGES)
def test_rows_of_stages(stages, settings, rows):
    data = DataConfig(**{"mix": mixed(a=1.0, b=1.0), "stages": stages, **settings})
    assert drawn(data, {"a": [4] * 10, "b": [2] * 20}) == rows


def test_weights_are_passes_only_without_stages():
    for stages, stated in ([], [2.0, 3.0]), ([StageConfig()], [np.nan, 3.0]):
        data = DataConfig(mix=mixed(a=2.0, b={"epochs": 3.0}), stages=stages)
        result = draw_epoch(data, pools(data, {"a": [1] * 4, "b": [1] * 4}), 0)
        np.testing.assert_array_equal(result.passes, stated)


def test_stages_repeat_no_row_before_all_are_used():
    data = DataConfig(mix=mixed(a=1.7), stages=[StageConfig(), StageConfig(share=2.0), StageConfig()])
    stages = draw_epoch(data, pools(data, {"a": [1] * 10}), 0).stages
    taken = [stage.copies[0] for stage in stages]
    assert [int(copies.sum()) for copies in taken] == [4, 9, 4]
    assert (taken[0] + taken[1]).min() == 1
    assert sum(taken).max() == 2
