"""Print what more training rows, or a source, are worth."""

from sft_cli.compare.curve import POWER_LAW
from sft_cli.compare.fractions import FractionReport, score_interval
from sft_cli.console import say, table
from sft_cli.scoring.statistics import Estimate, interval_text


def show_fractions(report: FractionReport) -> None:
    """Print the runs, the fitted curve, what twice the rows would give, and what each source is worth."""
    metric = "held-out loss" if report.metric == "loss" else report.metric
    rows = []
    for run in report.runs:
        own = score_interval(run)
        left_out = ", ".join(run.left_out)
        rows.append([run.path, run.fraction, left_out, run.rows, own.value, interval_text(own.low, own.high)])
    table(("run", "fraction", "left out", "rows", metric, "95%"), rows)
    if report.curve is not None:
        curve, largest = report.curve, max(run.rows for run in report.runs if not run.left_out)
        slope = curve.slope.value or 0.0
        formula = f"{curve.scale:.4g} * rows^{-slope:.4g}" if curve.form == POWER_LAW else (
            f"{curve.scale:.4g} {'+' if slope >= 0 else '-'} {abs(slope):.4g} * ln(rows)"
        )  # fmt: skip
        name = "exponent" if curve.form == POWER_LAW else "slope"
        say(f"curve     {metric} = {formula} ({curve.form}; {name} 95%: {_interval(curve.slope)})")
        change = curve.doubling(largest)
        say(f"more      twice the {largest:,} rows: {change.value:+.4g} (95%: {_interval(change)})")
    if report.sources:
        say("sources   gain: how much better the runs with the source are than those without")
        table(
            ("source", "its rows", "with", "without", "gain", "95%"),
            [
                [", ".join(worth.sources), worth.rows, worth.with_them, worth.without, worth.gain.value,
                 interval_text(worth.gain.low, worth.gain.high)]
                for worth in report.sources
            ],
        )  # fmt: skip
    for note in report.notes:
        say(f"note      {note}")


def _interval(estimate: Estimate) -> str:
    """Return an interval as text, or why there is none."""
    return interval_text(estimate.low, estimate.high) or "none, too few runs"
