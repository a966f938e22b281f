"""``sft compare``: compare the results of runs."""

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.errors import SftError


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Runs, or directories of results, of sft eval; the others are compared with the first one.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    base: Annotated[bool, typer.Option("--base", help="Compare with the base model instead of the first run.")] = False,
    examples: Annotated[
        int,
        typer.Option("--examples", "-n", metavar="N", min=0, help="Print this many items lost and won by each run."),
    ] = 3,
    fractions: Annotated[
        bool,
        typer.Option(
            "--fractions",
            help="Fit a score over the training rows of runs with data.fraction or data.leave_out, or of a sweep.",
        ),
    ] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="With --fractions: loss (the default, held-out) or SUITE.METRIC.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs on the suites that they were evaluated on: paired differences with intervals, costs, answers.

    Differences that may be noise are not ranked: "cannot tell; about 900 items would".

    Example: sft compare runs/a runs/b, or sft compare runs/a --base
    """
    if fractions:
        _fractions(runs, metric or "loss", base=base, json=json)
        return
    if metric is not None:
        raise SftError(where="--metric", problem="it is read only with --fractions", fix="add --fractions")
    from sft_cli.compare.compare import as_json, compare_runs
    from sft_cli.compare.show import show_comparison
    from sft_cli.run_dir import open_result_dir

    comparison = compare_runs(
        [open_result_dir(run, _with_others(runs, place)) for place, run in enumerate(runs)], base=base
    )
    if json:
        typer.echo(as_json(comparison))
    else:
        show_comparison(comparison, examples)


def _fractions(runs: Sequence[str], metric: str, *, base: bool, json: bool) -> None:
    """Print what more training rows, or a source, are worth."""
    from json import dumps

    from sft_cli.compare.fractions import as_values, fraction_report
    from sft_cli.compare.show_fractions import show_fractions
    from sft_cli.utils.mappings import nan_to_none

    if base:
        raise SftError(where="--base", problem="--fractions compares trained models only", fix="remove --base")
    report = fraction_report(runs, metric)
    if json:
        typer.echo(dumps(nan_to_none(as_values(report)), ensure_ascii=False, indent=1))
    else:
        show_fractions(report)


def _with_others(runs: Sequence[str], place: int) -> str:
    """Return the command with all runs but one, which an error about that one completes."""
    return shlex.join(["sft", "compare", *runs[:place], *runs[place + 1 :]])
