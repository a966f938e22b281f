"""Loss spikes and steps that are not finite: their detection, records and messages."""

import json
import math

import pytest

from sft_cli.config.schema.trainer import OnNan, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.divergence import (
    MAX_SKIPPED_IN_A_ROW,
    MEDIAN_WINDOW,
    MIN_LOSSES,
    RecentSteps,
    Spike,
    detect_spike,
    divergence_error,
    is_finite_step,
    raise_if_diverged,
    read_recent_steps,
    spike_baseline,
)
from sft_cli.train.monitoring.metrics import StepMetrics
from sft_cli.train.monitoring.step_rows import StepRow, describe_rows, list_step_rows

NAN, INF = math.nan, math.inf
ROWS = [StepRow("a.jsonl:7", 2043), StepRow("a.jsonl:2", 200), StepRow("b.jsonl:9", 81), StepRow("b.jsonl:1", 5)]


class Lengths:
    """Three examples of a split."""

    lengths = (5, 90, 20)

    def where(self, index):
        return f"rows.jsonl:{index + 1}"


def metrics(step=40, loss=2.0, grad_norm=1.0):
    return StepMetrics(step, 0.5, loss, {}, 2e-4, grad_norm, 4, 9, 9, 9, 0.1, 90.0, 1, 0.0)


def test_the_longest_rows_are_named_first():
    assert list_step_rows(Lengths(), [0, 2, 1]) == [
        StepRow("rows.jsonl:2", 90),
        StepRow("rows.jsonl:3", 20),
        StepRow("rows.jsonl:1", 5),
    ]
    assert describe_rows(ROWS) == "a.jsonl:7 (2,043 tokens), a.jsonl:2 (200 tokens), b.jsonl:9 (81 tokens) and 1 more"
    assert describe_rows(ROWS[2:3]) == "b.jsonl:9 (81 tokens)"


@pytest.mark.parametrize(
    ("loss", "grad_norm", "scaled", "expected"),
    [
        (1.0, 1.0, False, True),
        (NAN, 1.0, False, False),
        (1.0, INF, False, False),
        (-INF, NAN, False, False),
        pytest.param(1.0, INF, True, True, id="float16-skips-such-a-gradient-itself"),
        pytest.param(NAN, 1.0, True, False, id="float16-nan-loss"),
    ],
)
def test_is_finite_step(loss, grad_norm, scaled, expected):
    assert is_finite_step(loss, grad_norm, scaled=scaled) is expected


@pytest.mark.parametrize(
    ("before", "loss", "expected"),
    [
        pytest.param([1.0] * MIN_LOSSES, 4.0, None, id="four-times-is-not-above"),
        pytest.param([1.0] * MIN_LOSSES, 4.01, 1.0, id="above"),
        pytest.param([1.0] * (MIN_LOSSES - 1), 99.0, None, id="too-few-known"),
        pytest.param([1.0, 2.0] * 4, 6.1, 1.5, id="median-of-an-even-number"),
        pytest.param([1.0] * 5 + [50.0] * 3, 4.5, 1.0, id="earlier-spikes-do-not-hide-it"),
        pytest.param([0.0] * MIN_LOSSES, 0.1, None, id="median-of-zero"),
    ],
)
def test_spike_baseline_by_hand(before, loss, expected):
    assert spike_baseline(loss, RecentSteps(tuple(before)), 4.0) == expected


def test_recent_steps_keep_the_last_finite_losses():
    recent = RecentSteps()
    for step in range(MEDIAN_WINDOW + 5):
        recent = recent.append(float(step), 1.0, scaled=False)
    recent = recent.append(NAN, 1.0, scaled=False).append(1.0, INF, scaled=False)
    assert (len(recent.losses), recent.losses[0], recent.losses[-1], recent.nonfinite_in_a_row) == (
        MEDIAN_WINDOW,
        5.0,
        MEDIAN_WINDOW + 4.0,
        2,
    )
    assert recent.append(1.0, 1.0, scaled=False).nonfinite_in_a_row == 0


def test_recent_steps_of_a_resumed_run(tmp_path):
    """The file has evaluations between the steps, steps after the checkpoint and an incomplete last line."""
    steps = [(1.0, 1.0), (NAN, 2.0), (3.0, 1.0), (4.0, INF), (NAN, NAN), (5.0, 1.0)]
    lines, straight = [], [RecentSteps()]
    for number, (loss, norm) in enumerate(steps, start=1):
        kept = [None if not math.isfinite(value) else value for value in (loss, norm)]
        lines += [{"step": number, "loss": kept[0], "grad_norm": kept[1]}, {"step": number, "eval": True, "loss": 9.0}]
        straight.append(straight[-1].append(loss, norm, scaled=False))
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')

    assert [read_recent_steps(file, step, scaled=False) for step in range(7)] == straight
    assert straight[5] == RecentSteps((1.0, 3.0), 2)
    assert read_recent_steps(tmp_path / "none", 3, scaled=False) == RecentSteps()


def test_a_normal_step_does_not_read_rows():
    def rows():
        raise AssertionError

    before = RecentSteps((1.0,) * MEDIAN_WINDOW)
    assert detect_spike(metrics(loss=3.9), before, TrainerConfig(), scaled=False, rows=rows) is None


def test_a_spike_is_recorded_with_its_rows(tmp_path):
    file = tmp_path / "spikes.jsonl"
    spike = detect_spike(
        metrics(loss=9.3), RecentSteps((1.0,) * MEDIAN_WINDOW), TrainerConfig(), scaled=False, rows=lambda: ROWS[:2]
    )
    assert spike is not None
    assert spike.describe() == (
        "spike     step 40: loss 9.3, 9.3 times the median before it; "
        "computed from a.jsonl:7 (2,043 tokens), a.jsonl:2 (200 tokens)"
    )
    spike.write(file)
    spike.write(file)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first == second
    assert first == {
        "step": 40,
        "loss": 9.3,
        "grad_norm": 1.0,
        "median": 1.0,
        "lr": 2e-4,
        "skipped": False,
        "rows": [{"where": "a.jsonl:7", "tokens": 2043}, {"where": "a.jsonl:2", "tokens": 200}],
    }


@pytest.mark.parametrize("on_nan", OnNan)
def test_a_nonfinite_step_is_recorded_from_the_first_step_on(tmp_path, on_nan):
    file, trainer = tmp_path / "spikes.jsonl", TrainerConfig(on_nan=on_nan)
    spike = detect_spike(metrics(1, NAN, INF), RecentSteps(), trainer, scaled=False, rows=lambda: ROWS[3:])
    assert spike is not None
    skipped = on_nan is OnNan.skip
    assert spike.describe() == (
        f"spike     step 1: loss nan, gradient norm inf{', skipped' if skipped else ''}; "
        "computed from b.jsonl:1 (5 tokens)"
    )
    spike.write(file)
    line = json.loads(file.read_text())
    assert (line["loss"], line["grad_norm"], line["median"], line["skipped"]) == (None, None, None, skipped)


def test_divergence_error_names_rows_lr_and_command(tmp_path):
    run = RunDir(tmp_path / "my run")
    error = divergence_error(Spike(7, NAN, INF, None, 2e-3, False, ROWS), OnNan.stop, 1, run)
    assert str(error) == (
        "step 7: training diverged: loss nan, gradient norm inf, computed from a.jsonl:7 (2,043 tokens), "
        "a.jsonl:2 (200 tokens), b.jsonl:9 (81 tokens) and 1 more\n"
        "  fix: start a new run with a smaller trainer.lr (it was 0.002 here) or a longer warm-up; or, if a row is at "
        f"fault (all of them: {run.spikes}), skip such steps: "
        f"sft train --resume '{run.path}' trainer.on_nan=skip"
    )


def test_too_many_skipped_steps_end_the_run(tmp_path):
    run = RunDir(tmp_path)
    spike = Spike(50, NAN, NAN, None, 1.0, True, ROWS[:1])
    for count in range(MAX_SKIPPED_IN_A_ROW):
        raise_if_diverged(spike, OnNan.skip, count, run)
    with pytest.raises(SftError) as ended:
        raise_if_diverged(spike, OnNan.skip, MAX_SKIPPED_IN_A_ROW, run)
    assert str(ended.value) == (
        "step 50: training diverged: 10 steps in a row were skipped, the last one: loss nan, gradient norm nan, "
        "computed from a.jsonl:7 (2,043 tokens)\n"
        "  fix: start a new run with a smaller trainer.lr (it was 1 here) or a longer warm-up, or with "
        f"trainer.dtype=float32; the rows of all of them: {run.spikes}"
    )
