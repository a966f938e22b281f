"""What more training rows, or a source, are worth: fitted curves, and differences of runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sft_cli.cli import execute
from sft_cli.compare.curve import fit_log_linear, fit_power_law
from sft_cli.compare.fractions import fraction_report
from sft_cli.errors import SftError
from sft_cli.scoring.distributions import student_quantile


def write_run(
    path: Path, rows: int, loss: float, fraction: float = 1.0, left_out: tuple[str, ...] = (), right: str = ""
) -> str:
    """Write a run with its rows, its held-out losses, and which held-out rows it answered right (``10110``)."""
    (path / "eval").mkdir(parents=True)
    config = {"data": {"fraction": fraction, "leave_out": list(left_out)}, "run_name": path.name}
    (path / "config.yaml").write_text(json.dumps(config))
    kept = {name: {"distinct_rows": rows // 2} for name in ("a", "b") if name not in left_out}
    (path / "manifest.json").write_text(json.dumps({"mix": {"sources": kept}}))
    lines = [{"step": 1, "loss": 9.0}, *({"step": n, "eval": True, "loss": loss + n} for n in (1, 0))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if right:
        items = [{"where": f"rows:{n}", "correct": mark == "1"} for n, mark in enumerate(right)]
        (path / "eval" / "heldout.json").write_text(json.dumps({"suite": "heldout", "items": items}))
    return str(path)


def test_a_power_law_is_found_again():
    rows = [100, 200, 400, 1600]
    curve = fit_power_law(rows, [3.0 * n**-0.25 for n in rows])
    assert (curve.scale, curve.slope.value) == pytest.approx((3.0, 0.25))
    assert curve.slope.high - curve.slope.low == pytest.approx(0, abs=1e-9)
    change = curve.doubling(1600)
    assert change.value == pytest.approx(3.0 * (3200**-0.25 - 1600**-0.25))
    assert curve.value(100) == pytest.approx(3.0 * 100**-0.25)


def test_the_interval_of_an_exponent_is_that_of_a_regression():
    rows, values = [100, 200, 400, 400, 800], [1.0, 0.8, 0.75, 0.65, 0.5]
    curve = fit_power_law(rows, values)
    x, y = np.log(rows), np.log(values)
    design = np.stack([np.ones(5), x], 1)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(residual[0] / 3 * np.linalg.inv(design.T @ design)[1, 1])
    width = student_quantile(0.95, 3) * error
    assert curve.slope.value == pytest.approx(-solution[1])
    assert (curve.slope.low, curve.slope.high) == pytest.approx((-solution[1] - width, -solution[1] + width))
    ends = curve.doubling(800)
    assert ends.low < ends.value < ends.high < 0
    assert fit_power_law([100, 200], [1.0, 0.5]).slope.low is None


def test_exponents_are_covered_in_95_of_100_cases():
    generator, rows, covered = np.random.default_rng(3), [100, 100, 300, 300, 900, 900], 0
    for _ in range(400):
        values = [2.0 * n**-0.3 * math.exp(generator.normal(0, 0.05)) for n in rows]
        slope = fit_power_law(rows, values).slope
        covered += slope.low <= 0.3 <= slope.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_slope_of_a_score_is_the_mean_of_the_slopes_of_items():
    generator = np.random.default_rng(0)
    scores = [(generator.random(200) < share).astype(float).tolist() for share in (0.3, 0.5, 0.7)]
    curve = fit_log_linear([100, 200, 400], scores)
    means = [sum(own) / 200 for own in scores]
    assert curve.slope.value == pytest.approx((means[2] - means[0]) / math.log(4))
    assert curve.value(200) == pytest.approx(sum(means) / 3)
    assert curve.slope.low < curve.slope.value < curve.slope.high
    clustered = fit_log_linear([100, 200, 400], scores, [str(n // 50) for n in range(200)])
    assert clustered.slope.clusters == 4
    assert clustered.slope.value == pytest.approx(curve.slope.value)


def test_runs_of_a_sweep_with_curve_sources_and_notes(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for name, rows, loss, fraction in (("1", 100, 1.0, 0.25), ("2", 200, 0.5, 0.5), ("3", 400, 0.26, 1.0)):
        run = Path(write_run(sweep / name, rows, loss, fraction, right="1101" if name != "1" else "1000"))
        (run / "adapter").mkdir()
    write_run(sweep / "unfinished", 100, 5.0)
    (sweep / "sweep.json").write_text("{}")
    without_a = write_run(tmp_path / "a", 400, 0.36, left_out=("a",))
    without_b = write_run(tmp_path / "b", 400, 0.16, left_out=("b",), right="1111")
    report = fraction_report([str(sweep), without_a, without_b])
    assert [(run.rows, run.value) for run in report.runs] == [
        (100, 1.0), (200, 0.5), (400, 0.26), (200, 0.36), (200, 0.16)
    ]  # fmt: skip
    assert report.curve.slope.value == pytest.approx(math.log(1 / 0.26) / math.log(4))
    gains = {worth.sources: worth.gain.value for worth in report.sources}
    assert gains == pytest.approx({("a",): 0.1, ("b",): -0.1})  # without b, the loss is smaller
    assert all(worth.gain.low is None and worth.rows == 200 for worth in report.sources)
    execute(["compare", str(sweep), without_a, "--fractions"])
    out = capsys.readouterr().out
    assert "held-out loss = " in out
    assert "twice the 400 rows: -0.1" in out
    assert "the gain has an interval with three runs" in out
    execute(["compare", str(sweep), without_b, "--fractions", "--metric", "heldout.exact_match", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["curve"]["form"] == "log-linear"
    assert values["doubling"]["rows"] == 400
    assert values["sources"][0]["gain"]["value"] == pytest.approx(-0.25)
    assert values["sources"][0]["gain"]["low"] is not None


def test_seeds_give_the_gain_of_a_source_an_interval(tmp_path):
    whole = [write_run(tmp_path / f"w{n}", 400, loss) for n, loss in enumerate((0.30, 0.32))]
    without = [write_run(tmp_path / f"o{n}", 400, loss, left_out=("a",)) for n, loss in enumerate((0.40, 0.44))]
    (worth,) = fraction_report([*whole, *without]).sources
    assert worth.gain.value == pytest.approx(0.11)
    spread = math.sqrt((0.01**2 * 2 + 0.02**2 * 2) / 2 * (1 / 2 + 1 / 2)) * student_quantile(0.95, 2)
    assert worth.gain.high - worth.gain.value == pytest.approx(spread)


def test_runs_that_say_nothing_about_rows_are_refused(tmp_path):
    runs = [write_run(tmp_path / name, 100, 1.0) for name in ("x", "y")]
    with pytest.raises(SftError, match="the same number of training rows"):
        fraction_report(runs)
    other = write_run(tmp_path / "z", 50, 2.0, 0.5)
    with pytest.raises(SftError, match="has no such score"):
        fraction_report([*runs, other], "gsm8k.exact")
    (Path(other) / "metrics.jsonl").unlink()
    with pytest.raises(SftError, match="has no held-out loss"):
        fraction_report([*runs, other])
    with pytest.raises(SftError, match="it is read only with --fractions"):
        execute(["compare", *runs, "--metric", "loss"])
    (Path(other) / "manifest.json").unlink()
    with pytest.raises(SftError, match="counts the training rows"):
        fraction_report([*runs, other])
