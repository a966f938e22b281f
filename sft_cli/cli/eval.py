"""``sft eval``: evaluate a run or a model on held-out rows and suites."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.eval_target import Wanted, open_evaluation
from sft_cli.cli.options import ConfigDirs, RunOverrides, Step
from sft_cli.cli.ranks import reported_once
from sft_cli.distributed.rank_env import rank_from_env

BEYOND_LIMITS = 3
"""Exit code if the drift card is beyond ``eval.limits``."""
Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory; or the directory of a model, an adapter or results of a model; or a hub id.",
        show_default=False,
        autocompletion=complete_run,
    ),
]


def evaluate(
    run: Target,
    overrides: RunOverrides = None,
    compare: Annotated[
        Literal["base"] | None, typer.Option("--compare", metavar="base", help="Also evaluate the base model.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the stored answers again, without the model.")
    ] = False,
    blame: Annotated[
        bool,
        typer.Option("--blame", help="Name the training rows nearest to each failed item; contradicting ones first."),
    ] = False,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="Ask the prompts of a file; rows with an answer, label, schema or check are scored.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Directory of the results of a MODEL; default evals/NAME."),
    ] = None,
    step: Step = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            "--checkpoints",
            metavar="all|N,N",
            help="Evaluate saved steps, and print one table of all.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Share the items over N processes of this machine.")
    ] = 1,
    config_dir: ConfigDirs = None,
) -> None:
    """Measure a run on its held-out rows, or a run or model on every row of data=FILE, or on suites such as eval=gsm8k.

    The exit code is 3 if the behaviour is beyond eval.limits, such as eval.limits.empty=0.02.

    Config keys that can be set: data=FILE, eval=SUITES, all of eval, trainer.device and a few more; of a model also
    template and quant.

    Example: sft eval runs/quickstart-20250101-120000 --compare base, or with --step 50 for a saved step
    """
    from sft_cli.distributed.launch import launch_processes

    words, dirs, rank = overrides or [], config_dir or [], rank_from_env()
    wanted = Wanted(questions, out, step, checkpoints, rescore=rescore, compare=compare is not None, blame=blame)
    with reported_once(rank):
        target, evaluation = open_evaluation(run, words, dirs, wanted, is_one=processes == 1 and rank.world_size == 1)
    if processes > 1 and rank.world_size == 1:
        options = [
            *(["--compare", "base"] if wanted.compare else []),
            *(["--blame"] if blame else []),
            *(["--questions", questions] if questions else []),
        ]
        options += [] if out is None else ["--out", str(out)]
        options += [word for directory in dirs for word in ("-d", directory)]
        raise typer.Exit(launch_processes(["eval", target, *words, *options], processes))
    if evaluation():
        raise typer.Exit(BEYOND_LIMITS)
