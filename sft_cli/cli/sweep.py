"""``sft sweep``: train several runs from one command line."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.options import ConfigDirs, Out, Overrides
from sft_cli.errors import SftError, raise_all


def sweep(
    overrides: Overrides = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--parallel", metavar="N", min=1, help="Number of parallel runs; 1 by default, all of them on SLURM."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Metric that ranks the runs: loss, perplexity, nll, …"),
    ] = None,
    mode: Annotated[
        Literal["min", "max"] | None,
        typer.Option("--mode", help="Whether a small or a large value of the metric is better."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Continue the sweep in this directory.")
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Train once for each combination of values, on this machine or as a SLURM array, and rank the results.

    Several values of a key are separated by commas: trainer.lr=1e-4,2e-4 or trainer.seed=range(1,4).

    Example: sft sweep recipe=quickstart trainer.lr=1e-3,2e-3 adapter.rank=8,16 --parallel 2, or sft sweep --resume DIR
    """
    from sft_cli.sweep.start import begin, resume_sweep

    if resume is None:
        # Not typer.Exit: 130 as its code reads like a Ctrl-C that nothing has reported yet.
        sys.exit(begin(overrides or [], config_dir or [], out=out, parallel=parallel, metric=metric, mode=mode))
    fixed_words = [*(overrides or []), *(f"-d {name}" for name in config_dir or []), *(["--out"] if out else [])]
    problem = "the settings of an existing sweep cannot be changed"
    fix = (
        "remove it (--parallel, --metric and --mode can be set), or a new sweep: sft sweep recipe=NAME KEY=VALUE,VALUE"
    )
    raise_all([SftError(where=word, problem=problem, fix=fix) for word in fixed_words])
    sys.exit(resume_sweep(resume, parallel=parallel, metric=metric, mode=mode))
