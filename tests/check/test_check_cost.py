"""Time and cost, compared with calculations by hand."""

import json
from types import SimpleNamespace

import pytest

from sft_cli.check.cost import FlopModel, MeasuredSpeed, RunSize, cost_check, measured_speed, run_size
from sft_cli.check.gpus import GPUS, parse_gpu
from sft_cli.check.options import CheckOptions
from sft_cli.config.compose import compose
from sft_cli.errors import SftError

SAMPLE = SimpleNamespace(whole=True, examples=100, tokens_per_example=20.0)


def test_operations_of_a_token_by_hand():
    """1,000 parameters, 100 of the head, 2 layers 8 wide, 10 tokens of which half are trained."""
    frozen = FlopModel(block=1000, head=100, layers=2, width=8, whole=False, recomputed=0.0)
    attention = 4 * 8 * 2 * 10 / 2
    assert frozen.per_token(10, 0.5) == 2000 + attention + 2000 + 2.5 * attention + 4 * 100 * 0.5
    whole = FlopModel(block=1000, head=100, layers=2, width=8, whole=True, recomputed=1.0)
    assert whole.per_token(10, 0.5) == 2 * (2000 + attention) + 4000 + 2.5 * attention + 6 * 100 * 0.5


@pytest.mark.parametrize(
    ("words", "steps", "tokens"),
    [
        (["trainer.epochs=1"], 7, 2000),
        (["trainer.epochs=3"], 21, 6000),
        (["trainer.max_steps=2"], 2, 640),
        (["trainer.max_steps=14"], 14, 4000),
    ],
)
def test_steps_and_tokens_of_a_run(words, steps, tokens):
    """100 examples of 20 tokens, 16 a step: the seventh step has 4."""
    config = compose(["recipe=quickstart", "trainer.examples_per_step=16", *words])
    assert run_size(config, SAMPLE) == RunSize(steps, tokens)


def test_given_speed_gives_time_and_cost():
    line = cost_check(CheckOptions(tokens_per_second=1000, price=2.0), SAMPLE, RunSize(10, 36_000_000), 4, None, 1.0)
    assert line.text == "10 steps, 36,000,000 tokens: 10.0 h at 1,000 tokens/s (as stated)"
    assert line.more == ["cost 80.00, where one GPU hour costs 2 (4 processes)"]
    line = cost_check(
        CheckOptions(tokens_per_second=1000, price=2.0), SAMPLE, RunSize(1, 3_600_000), 1, GPUS["h100"], 1.0
    )
    assert line.text.startswith("1 step, ")
    assert line.more == ["cost 2.00, where one GPU hour costs 2 (1 GPU)"]


def test_price_without_a_speed_is_a_warning():
    line = cost_check(CheckOptions(price=0.5), SAMPLE, RunSize(1, 1000), 1, parse_gpu("24GB"), 30e9)
    assert line.text == "1 step, 1,000 tokens; the speed of 24GB is not known; without it no cost can be computed"
    assert line.fix == "--tokens-per-second N, --like RUN, or --gpu h100 (a named card)"


@pytest.mark.parametrize("price", [None, 2.0])
def test_model_too_small_for_an_estimate_gets_none(price):
    """The quickstart's 6 MFLOP a token would give 55 million tokens a second."""
    line = cost_check(CheckOptions(price=price), SAMPLE, RunSize(10, 1000), 1, GPUS["h100"], 6.3e6)
    assert line.status.value == "warn"
    assert "at 6.3 MFLOP a token the model is too small for an estimate" in line.text
    assert "tokens/s" not in line.text
    assert ("no cost" in line.text) is (price is not None)


def finished(directory, device):
    """Write a run of three steps on a device, and return its path."""
    directory.mkdir()
    (directory / "config.yaml").write_text("")
    (directory / "environment.json").write_text(json.dumps({"device": device}))
    lines = [{"step": n, "tokens_per_second": speed} for n, speed in ((1, 1.0), (2, 10.0), (3, 20.0))]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(directory)


@pytest.mark.parametrize(
    ("device", "named", "taken"),
    [
        ("cpu", None, True),
        ("cpu", "h100", False),
        ("NVIDIA H100 80GB HBM3", "h100", True),
        ("NVIDIA H100 80GB HBM3", None, False),
        ("NVIDIA H100 80GB HBM3", "a100", False),
        ("NVIDIA A100-SXM4-40GB", "a100", True),
        ("NVIDIA Something New", "h100", False),
    ],
)
def test_speed_of_a_run_on_another_device_is_not_used(tmp_path, device, named, taken):
    run = finished(tmp_path / "run", device)
    line = cost_check(
        CheckOptions(like=run, price=1.0), SAMPLE, RunSize(1, 1000), 1, GPUS[named] if named else None, 30e9
    )
    assert (line.status.value == "ok") is taken
    assert ("median of 3 steps" in line.text) is taken
    if not taken:
        assert f"was trained on {device}, not on {named or 'a CPU'}" in line.text
        assert "no cost" in line.text


def test_calculated_value_is_an_estimate_with_its_assumption():
    line = cost_check(CheckOptions(), SAMPLE, RunSize(1, 1000), 2, GPUS["h100"], 30e9)
    assert "an ESTIMATE, nothing was measured: 30 GFLOP a token at an assumed 35% of 989 TFLOP/s" in line.text
    assert f"at {2 * 989e12 * 0.35 / 30e9:,.0f} tokens/s" in line.text


def test_unknown_speed_suggests_options():
    line = cost_check(CheckOptions(), SAMPLE, RunSize(1, 1000), 1, parse_gpu("24GB"), 30e9)
    assert (line.status.value, line.fix) == ("warn", "--tokens-per-second N, --like RUN, or --gpu h100 (a named card)")


def test_speed_of_an_earlier_run_is_its_median_without_the_first_step(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    lines = [{"step": 1, "tokens_per_second": 1.0}, {"step": 1, "eval": True}]
    lines += [{"step": n, "tokens_per_second": speed} for n, speed in ((2, 10.0), (3, 30.0), (4, 20.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "tok')
    assert measured_speed(str(tmp_path)) == MeasuredSpeed(20.0, 4, "cpu")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(SftError, match="the run has no finished step"):
        measured_speed(str(tmp_path))
