"""Print a comparison of runs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from sft_cli.compare.changes import ChangedAnswer
from sft_cli.compare.compare import RunComparison
from sft_cli.compare.comparison import NO_DIFFERENCE, NO_TEST, Cell, MetricComparison
from sft_cli.console import counted, say, table
from sft_cli.scoring.statistics import ALPHA
from sft_cli.utils.text import duration

MAX_KEYS = 12
"""Most keys of a config that are printed."""
MAX_CHARACTERS = 400
"""Most characters of a prompt or an answer that are printed."""


def show_comparison(comparison: RunComparison, examples: int) -> None:
    """Print the table of scores, the costs, what differs in settings and data, and answers that changed.

    Args:
        comparison: The comparison.
        examples: Number of items lost, and of items won, to print for each run.
    """
    names = _labels(comparison)
    for run, label in names.items():
        say(f"{label:<9} {run}" + (" (reference)" if run == comparison.reference else ""))
    say()
    for line in score_lines(comparison.metrics, names):
        say(line, indent=len(line) - len(line.lstrip()))
    say()
    tested = sum(cell.difference is not None for row in comparison.metrics for cell in row.cells)
    if tested > 1:
        say(f"verdicts  hold together for all {tested} differences at {ALPHA:.0%} (Holm)")
    if any(cell.verdict.startswith("cannot tell;") for row in comparison.metrics for cell in row.cells):
        say("items     ~N: so many would show the observed difference in 80% of cases")
    if any(cell.verdict == NO_TEST for row in comparison.metrics for cell in row.cells):
        say("untested  metrics of which only the total is stored")
    for note in (note for suite in comparison.suites for note in suite.notes):
        say(f"note      {note}")
    _show_costs(comparison, names)
    _show_settings(comparison, names)
    for run, changes in comparison.answers.items():
        _show_answers(names[comparison.reference], names[run], changes, examples)


def _labels(comparison: RunComparison) -> dict[str, str]:
    """Return a short label of each run: A, B, …; more than 26 runs have numbers."""
    runs = [comparison.reference, *(run for run in comparison.answers if run != comparison.reference)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {run: letters[place] if len(runs) <= len(letters) else str(place + 1) for place, run in enumerate(runs)}


def score_lines(metrics: Sequence[MetricComparison], names: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each metric, and one for each run below it; of usual figures, none is wider than 80 columns.

    Args:
        metrics: The metrics.
        names: Short label of each run.
    """
    heads = ("run", "score, 95%", "difference, 95%", "verdict")
    rows = [
        [(names[cell.run], *_figures(cell), short_verdict(cell.verdict)) for cell in metric.cells] for metric in metrics
    ]
    widths = [max(len(line[place]) for line in (heads, *itertools.chain(*rows))) for place in range(len(heads))]
    yield _aligned(heads, widths)
    for metric, lines in zip(metrics, rows, strict=True):
        yield f"{metric.suite} {metric.metric}, {counted(metric.cells[0].estimate.n, 'item')}"
        for line in lines:
            yield _aligned(line, widths)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    return ("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))).rstrip()


def short_verdict(verdict: str) -> str:
    """Return a verdict as the table has it: ``cannot tell; ~900 items`` for ``cannot tell; about 900 items would``."""
    if verdict == NO_TEST:
        return "not tested"
    if verdict == NO_DIFFERENCE:
        return "equal"
    return verdict.replace("about ", "~").replace("more than ", "over ").removesuffix(" would")


def _figures(cell: Cell) -> list[str]:
    """Return a score and a difference, each with its interval."""
    estimate, difference = cell.estimate, cell.difference
    score = "" if estimate.value is None else _number(estimate.value)
    if estimate.low is not None and estimate.high is not None:
        score += f" [{_number(estimate.low)}, {_number(estimate.high)}]"
    shown = "" if difference is None else _number(difference.value, "+")
    if difference is not None and difference.low is not None and difference.high is not None:
        shown += f" [{_number(difference.low, '+')}, {_number(difference.high, '+')}]"
    return [score, shown]


def _number(value: float, sign: str = "") -> str:
    """Return a number with three decimals; from 10 on with four digits."""
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def _show_costs(comparison: RunComparison, names: dict[str, str]) -> None:
    """Print the tokens and the time of each suite and run, if any answer was generated or timed."""
    rows = [
        (
            suite.suite,
            names[run],
            len(record.answers),
            record.tokens,
            round(record.tokens / len(record.answers), 1) if record.answers else None,
            "" if record.seconds is None else duration(record.seconds),
        )
        for suite in comparison.suites
        for run, record in suite.records.items()
    ]
    if any(tokens or seconds for *_, tokens, _, seconds in rows):
        table(("suite", "run", "items", "tokens", "tokens/item", "time"), rows)


def _show_settings(comparison: RunComparison, names: dict[str, str]) -> None:
    """Print the settings and data in which the runs differ from the reference."""
    for run, keys in comparison.config.items():
        shown = [f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in list(keys.items())[:MAX_KEYS]]
        more = f", and {counted(len(keys) - MAX_KEYS, 'more key')}" if len(keys) > MAX_KEYS else ""
        pair = f"{names[comparison.reference]} -> {names[run]}"
        say(f"config    {pair}: {', '.join(shown) + more if shown else 'no difference'}")
    for run, changes in comparison.data.items():
        if changes:
            say(f"data      {names[comparison.reference]} -> {names[run]}: {', '.join(changes)}")


def _short(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _show_answers(reference: str, run: str, changes: Sequence[ChangedAnswer], examples: int) -> None:
    """Print items of which one run is right and the other wrong."""
    lost, won = ([change for change in changes if change.right == right] for right in (False, True))
    if not changes:
        return
    say(f"answers   {run} loses {counted(len(lost), 'item')} and wins {len(won):,} against {reference}")
    for change in (*lost[:examples], *won[:examples]):
        say()
        say(f"{change.suite} {change.id}: {run} is {'right' if change.right else 'wrong'} ({change.metric})")
        say(f"prompt    {_excerpt(change.prompt, end=True)}")
        for label, answer in zip((reference, run), change.answers, strict=True):
            say(f"{label:<9} {_excerpt(answer)}")
        if change.reason:
            say(f"reason    {_excerpt(change.reason)}")


def _excerpt(text: str, *, end: bool = False) -> str:
    """Return the start or the end of a text, its lines indented below a label."""
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        text = f"…{text[-MAX_CHARACTERS:]}" if end else f"{text[:MAX_CHARACTERS]}…"
    return text.replace("\n", "\n          ")
