"""``sft compare``: compare the results of runs."""

from typing import Annotated

import typer

from sft_cli.cli.completion import complete_run


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
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs on the suites that they were evaluated on: paired differences with intervals, costs, answers.

    Differences that may be noise are not ranked: "cannot tell; about 900 items would".

    Example: sft compare runs/a runs/b, or sft compare runs/a --base
    """
    from sft_cli.compare.compare import as_json, compare_runs
    from sft_cli.compare.show import show_comparison
    from sft_cli.run_dir import open_results

    comparison = compare_runs([open_results(run, "sft compare") for run in runs], base=base)
    if json:
        typer.echo(as_json(comparison))
    else:
        show_comparison(comparison, examples)
