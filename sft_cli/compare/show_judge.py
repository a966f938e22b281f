"""Print the result of a judge."""

from dataclasses import asdict
from pathlib import Path

from sft_cli.console import counted, say, table
from sft_cli.scoring.judge.results import JudgeResult
from sft_cli.scoring.statistics import interval_text


def show_judgement(result: JudgeResult, directory: Path) -> None:
    """Print the scores or why they are withheld, the audit, what was used, and where the verdicts are."""
    if not result.withheld:
        table(
            ["metric", "n", "value", "95%"],
            [
                [name, estimate.n, estimate.value, interval_text(estimate.low, estimate.high)]
                for name, estimate in result.metrics.items()
            ],
        )
        if "rating_file_references" in result.metrics:
            say("note      the separate file of references of MT-Bench is wrong in 13 of its 30 questions")
    table(["audit of the judge", "value"], _audit_rows(result))
    for reason in result.withheld:
        say(f"withheld  {reason}")
    usage = result.usage
    tokens = f"{usage.input_tokens + usage.output_tokens:,} tokens"
    journaled = f", {usage.from_journal:,} of them from the journal" if usage.from_journal else ""
    cost = f", cost {usage.cost:.2f}" if usage.cost else ""
    say(f"used      {counted(usage.requests, 'reply', 'replies')}{journaled}, {tokens}{cost}")
    say(f"results   {directory}")


def _audit_rows(result: JudgeResult) -> list[list[str | float]]:
    """Return what the audit measured; values that it did not measure are left out."""
    rows: list[list[str | float]] = []
    for name, value in asdict(result.audit).items():
        number = value["value"] if isinstance(value, dict) else value  # an estimate
        if number is not None:
            rows.append([name, number])
    return rows
