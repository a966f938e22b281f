"""The files and console lines about steps, evaluations and probes."""

import json
from dataclasses import replace

import pytest

from sft_cli.train.monitoring.metrics import MetricsLog, StepMetrics
from sft_cli.train.monitoring.trackers import Trackers
from sft_cli.train.scalars import scalars

STEP = StepMetrics(
    step=1,
    epoch=0.5,
    loss=2.5,
    terms={"nll": 2.25, "kl": 0.25},
    lr=1e-3,
    grad_norm=3.0,
    examples=4,
    tokens=50,
    computed_tokens=40,
    trained_tokens=10,
    seconds=0.5,
    tokens_per_second=100.0,
    memory=7,
    at=1.0,
)
PROBED = {"maths": {"metric": "loss", "value": 1.5, "base": 1.0, "worse": 0.5, "max_drop": 0.1}}


def test_the_console_shows_several_terms(tmp_path, capsys):
    log = MetricsLog(tmp_path / "metrics.jsonl", 2, 0, Trackers({}))
    log.step(STEP)
    log.step(replace(STEP, step=2, epoch=1.0, loss=2.25, terms={"nll": 2.25}))
    log.close()

    assert capsys.readouterr().out.splitlines() == [
        "step      1/2  epoch 0.50  loss 2.5000 (nll 2.25, kl 0.25)  lr 1.00e-03  100 tokens/s  0 s, 0 s left",
        "step      2/2  epoch 1.00  loss 2.2500  lr 1.00e-03  100 tokens/s  0 s, 0 s left",
    ]


def test_one_slow_step_does_not_move_the_remaining_time(tmp_path, capsys):
    log = MetricsLog(tmp_path / "metrics.jsonl", 10, 0, Trackers({}))
    for step in range(1, 6):
        log.step(replace(STEP, step=step, seconds=60.0 if step in (1, 4) else 2.0))
    log.close()

    assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == [
        *("9 min left", "15 s left", "15 s left", "10 s left", "10 s left")
    ]


def test_lines_after_a_checkpoint_are_removed(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file, 2, 0, Trackers({}))
    log.step(STEP)
    log.evaluation(1, 0.5, {"loss": float("nan"), "sources": {"a": 1.0}})
    log.retention(1, PROBED)
    log.step(replace(STEP, step=2))
    log.retention(2, PROBED)
    log.close()
    MetricsLog(file, 2, 1, Trackers({})).close()

    step, evaluation, probed = (json.loads(line) for line in file.read_text().splitlines())
    assert step["terms"] == {"nll": 2.25, "kl": 0.25}
    assert evaluation == {"step": 1, "epoch": 0.5, "eval": True, "loss": None, "sources": {"a": 1.0}}
    assert probed == {"step": 1, "retention": PROBED}


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        pytest.param(
            {"step": 1, "epoch": 0.5, "loss": 2.5, "terms": {"nll": 2.25, "kl": 0.25}, "lr": 1e-3, "at": 9.0},
            {"train/epoch": 0.5, "train/loss": 2.5, "train/nll": 2.25, "train/kl": 0.25, "train/lr": 1e-3},
            id="step",
        ),
        pytest.param(
            {"step": 1, "epoch": 0.5, "eval": True, "loss": 2.0, "sources": {"a": 1.0, "b": 3.0}},
            {"eval/epoch": 0.5, "eval/loss": 2.0, "eval/sources/a": 1.0, "eval/sources/b": 3.0},
            id="evaluation",
        ),
        pytest.param(
            {"step": 1, "retention": PROBED},
            {
                "retention/maths/value": 1.5,
                "retention/maths/base": 1.0,
                "retention/maths/worse": 0.5,
                "retention/maths/max_drop": 0.1,
            },
            id="probes",
        ),
    ],
)
def test_scalars_of_a_line(line, numbers):
    assert dict(scalars(line)) == numbers
