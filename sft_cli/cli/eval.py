"""``sft eval``: evaluate a run on held-out rows."""

from typing import Annotated, Literal

import typer

from sft_cli.cli.options import ConfigDirs, Run, RunOverrides, Step


def evaluate(
    run: Run,
    overrides: RunOverrides = None,
    compare: Annotated[
        Literal["base"] | None, typer.Option("--compare", metavar="base", help="Also evaluate the base model.")
    ] = None,
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Measure a run on its held-out rows, or on every row of data=FILE: loss, answers, exact match.

    Config keys that can be set: data=FILE, all of eval, trainer.device and a few more.

    Example: sft eval runs/quickstart-20250101-120000 --compare base, or with --step 50 for a saved step
    """
    from sft_cli.config.compose import read_config
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_rows
    from sft_cli.eval.settings import eval_config
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    directory = open_run_at_step(run, step, "sft eval")
    trained = read_config(directory.config)
    config = eval_config(directory, trained, overrides or [], config_dir or [])
    rows = select_rows(directory, trained, config)
    from sft_cli.eval.session import evaluate_run

    evaluate_run(directory, config, rows, report_name(rows, trained, config), compare=compare is not None)
