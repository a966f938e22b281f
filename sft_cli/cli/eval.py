"""``sft eval``: evaluate a run or a model on held-out rows and suites."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sft_cli.cli.completion import complete_run
from sft_cli.cli.loading import slow_imports
from sft_cli.cli.options import ConfigDirs, RunOverrides, Step
from sft_cli.errors import SftError
from sft_cli.progress import status

if TYPE_CHECKING:
    from sft_cli.config.schema.config import EvalConfig
    from sft_cli.eval.bare_model import BareModel
    from sft_cli.run_dir import RunDir
    from sft_cli.suites.items import LoadedSuite

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
    config_dir: ConfigDirs = None,
) -> None:
    """Measure a run on its held-out rows, or a run or model on every row of data=FILE, or on suites such as eval=gsm8k.

    The exit code is 3 if the behaviour is beyond eval.limits, such as eval.limits.empty=0.02.

    Config keys that can be set: data=FILE, eval=SUITES, all of eval, trainer.device and a few more; of a model also
    template and quant.

    Example: sft eval runs/quickstart-20250101-120000 --compare base, or with --step 50 for a saved step
    """
    from sft_cli.eval.bare_model import find_bare_model
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    bare = find_bare_model(run, out) if step is None else None
    words, dirs = overrides or [], config_dir or []
    if bare is not None:
        broken = _evaluate_bare(bare, words, dirs, questions, rescore=rescore, compare=compare is not None)
    else:
        directory = open_run_at_step(run, step, "sft eval")
        if out is not None:
            problem = f"the results of a run are in {directory.eval}"
            raise SftError(where=f"--out {out}", problem=problem, fix="remove --out")
        broken = _evaluate_run(directory, words, dirs, questions, rescore=rescore, compare=compare is not None)
    if broken:
        raise typer.Exit(BEYOND_LIMITS)


def _evaluate_run(
    directory: "RunDir",
    words: Sequence[str],
    dirs: Sequence[str],
    questions: str | None,
    *,
    rescore: bool,
    compare: bool,
) -> list[str]:
    """Evaluate a run, or score its answers again; return the values beyond their limits."""
    from sft_cli.config.compose import read_config
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_rows
    from sft_cli.eval.settings import eval_config
    from sft_cli.suites.chosen import evaluates_heldout, with_questions
    from sft_cli.suites.rescore import rescore_run

    trained = read_config(directory.config)
    config = eval_config(directory, trained, words, dirs)
    config = config if questions is None else with_questions(config, questions)
    if rescore:
        rescore_run(directory, config)
        return []
    rows = select_rows(directory, trained, config) if evaluates_heldout(config.eval) else None
    suites = _checked_suites(config.eval)
    status("loading   torch and the model's configuration")
    with slow_imports():
        from sft_cli.eval.evaluated import evaluated_run
        from sft_cli.eval.session import NamedRows, evaluate_model

    heldout = None if rows is None else NamedRows(rows, report_name(rows, trained, config))
    return evaluate_model(evaluated_run(directory, config), config, heldout, suites, compare=compare)


def _evaluate_bare(
    model: "BareModel",
    words: Sequence[str],
    dirs: Sequence[str],
    questions: str | None,
    *,
    rescore: bool,
    compare: bool,
) -> list[str]:
    """Evaluate a model that no run belongs to, or score its answers again; return the values beyond their limits."""
    from sft_cli.config.model_files.weights import require_weights
    from sft_cli.eval.bare_model import check_base, claim_results, evaluated_bare_model, needs_template, refuse_compare
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_bare_rows
    from sft_cli.eval.settings import bare_eval_config
    from sft_cli.suites.chosen import evaluates_heldout, with_questions
    from sft_cli.suites.rescore import rescore_run

    config = bare_eval_config(model, words, dirs)
    config = config if questions is None else with_questions(config, questions)
    if rescore:
        rescore_run(model.results, config)
        return []
    check_base(model, config)
    if compare:
        refuse_compare(model)
    require_weights(config.model)
    suites = _checked_suites(config.eval)
    evaluated = evaluated_bare_model(model, config, needs_template=needs_template(config.eval))
    rows = select_bare_rows(model.typed, config) if evaluates_heldout(config.eval) else None
    claim_results(model)
    status("loading   torch and the model's configuration")
    with slow_imports():
        from sft_cli.eval.session import NamedRows, evaluate_model

    heldout = None if rows is None else NamedRows(rows, report_name(rows, model.config(), config))
    return evaluate_model(evaluated, config, heldout, suites, compare=compare)


def _checked_suites(config: "EvalConfig") -> "list[LoadedSuite]":
    """Return the chosen suites; wrong limits and unknown tasks are refused before the model is loaded."""
    from sft_cli.eval.drift_limits import check_limits
    from sft_cli.suites.chosen import chosen_suites

    suites = chosen_suites(config)
    check_limits(config.limits)
    if config.lm_eval.tasks:
        from sft_cli.eval.harness import task_manager

        task_manager(config.lm_eval)
    return suites
