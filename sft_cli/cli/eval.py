"""``sft eval``: evaluate a run on held-out rows and suites."""

from typing import Annotated, Literal

import typer

from sft_cli.cli.loading import slow_imports
from sft_cli.cli.options import ConfigDirs, Run, RunOverrides, Step
from sft_cli.config.schema.suites import LmEvalConfig
from sft_cli.progress import status

BEYOND_LIMITS = 3
"""Exit code if the drift card is beyond ``eval.limits``."""


def evaluate(
    run: Run,
    overrides: RunOverrides = None,
    compare: Annotated[
        Literal["base"] | None, typer.Option("--compare", metavar="base", help="Also evaluate the base model.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the stored answers again, without the model.")
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
    step: Step = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Measure a run on its held-out rows, on every row of data=FILE, or on suites such as eval=gsm8k.

    The exit code is 3 if the behaviour is beyond eval.limits, such as eval.limits.empty=0.02.

    Config keys that can be set: data=FILE, eval=SUITES, all of eval, trainer.device and a few more.

    Example: sft eval runs/quickstart-20250101-120000 --compare base, or with --step 50 for a saved step
    """
    from sft_cli.config.compose import read_config
    from sft_cli.eval.drift_limits import check_limits
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_rows
    from sft_cli.eval.settings import eval_config
    from sft_cli.suites.chosen import chosen_suites, evaluates_heldout, with_questions
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    directory = open_run_at_step(run, step, "sft eval")
    trained = read_config(directory.config)
    config = eval_config(directory, trained, overrides or [], config_dir or [])
    if questions is not None:
        config = with_questions(config, questions)
    if rescore:
        from sft_cli.suites.rescore import rescore_run

        rescore_run(directory, config)
        return
    rows = select_rows(directory, trained, config) if evaluates_heldout(config.eval) else None
    suites = chosen_suites(config.eval)
    check_limits(config.eval.limits)
    _check_tasks(config.eval.lm_eval)
    status("loading   torch and the model's configuration")
    with slow_imports():
        from sft_cli.eval.session import NamedRows, evaluate_run

    heldout = None if rows is None else NamedRows(rows, report_name(rows, trained, config))
    if evaluate_run(directory, config, heldout, suites, compare=compare is not None):
        raise typer.Exit(BEYOND_LIMITS)


def _check_tasks(tasks: LmEvalConfig) -> None:
    """Refuse unknown tasks of lm-evaluation-harness before the model is loaded."""
    if tasks.tasks:
        from sft_cli.eval.harness import task_manager

        task_manager(tasks)
