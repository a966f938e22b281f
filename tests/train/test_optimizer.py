"""Learning rates by hand, and which weights decay."""

import pytest
import torch

from sft_cli.config.schema import Schedule, TrainerConfig
from sft_cli.train.optimizer import make_optimizer, make_schedule


def rates(**settings) -> list[float]:
    """The learning rate of each of 5 steps at lr 1."""
    config = TrainerConfig(lr=1.0, **settings)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, 5)
    found = []
    for _ in range(5):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"schedule": Schedule.constant, "warmup_ratio": 0.0}, [1, 1, 1, 1, 1], id="constant"),
        pytest.param({"schedule": Schedule.constant, "warmup_ratio": 0.4}, [0.5, 1, 1, 1, 1], id="warm-up"),
        pytest.param({"schedule": Schedule.linear, "warmup_ratio": 0.0}, [1, 0.8, 0.6, 0.4, 0.2], id="linear"),
        pytest.param(
            {"schedule": Schedule.polynomial, "warmup_ratio": 0.0, "min_lr_ratio": 0.5},
            [1, 0.9, 0.8, 0.7, 0.6],
            id="a-line-to-a-floor",
        ),
        pytest.param(
            {"schedule": Schedule.cosine, "warmup_ratio": 0.2}, [1, 0.904508, 0.654508, 0.345492, 0.095492], id="cosine"
        ),
    ],
)
def test_learning_rates(settings, expected):
    assert rates(**settings) == pytest.approx(expected, abs=1e-5)


def test_vectors_are_not_decayed():
    optimizer = make_optimizer(torch.nn.Linear(2, 2), TrainerConfig(weight_decay=0.1))

    assert [(group["params"][0].ndim, group["weight_decay"]) for group in optimizer.param_groups] == [
        (2, 0.1),
        (1, 0.0),
    ]
