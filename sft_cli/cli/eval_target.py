"""The run or model of ``sft eval``: check the command line, evaluate, and report."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sft_cli.cli.eval_checkpoints import evaluate_checkpoints, saved_steps
from sft_cli.cli.loading import slow_imports
from sft_cli.cli.ranks import joined_processes
from sft_cli.config.schema.suites import EvalEngine
from sft_cli.distributed.rank_env import rank_from_env
from sft_cli.errors import SftError
from sft_cli.progress import status

if TYPE_CHECKING:
    from sft_cli.config.schema.config import Config, EvalConfig
    from sft_cli.eval.bare_model import BareModel
    from sft_cli.run_dir import RunDir
    from sft_cli.suites.items import LoadedSuite

SERVED = "eval.engine=openai"
"""Override by which the argument may be the name of a model at a server."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of the command line."""

    questions: str | None
    out: Path | None
    step: int | None
    checkpoints: str | None
    rescore: bool
    compare: bool
    blame: bool


def open_evaluation(
    typed: str, words: Sequence[str], dirs: Sequence[str], wanted: Wanted, *, is_one: bool
) -> tuple[str, Callable[[], list[str]]]:
    """Check the command line; return the run or model to evaluate, and its evaluation.

    Args:
        typed: The argument.
        words: The overrides.
        dirs: Directories of recipes and options.
        wanted: The options.
        is_one: Whether one process evaluates.
    """
    from sft_cli.config.compose import read_config
    from sft_cli.eval.bare_model import check_bare_model, find_bare_model
    from sft_cli.eval.served_check import check_served
    from sft_cli.eval.settings import bare_eval_config, eval_config
    from sft_cli.suites.chosen import with_questions
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    if wanted.checkpoints is not None:
        return typed, _open_checkpoints(typed, words, dirs, wanted, wanted.checkpoints, is_one=is_one)
    if wanted.step is not None and rank_from_env().world_size > 1:
        problem, fix = "every process would export the step", f"run sft eval {typed} --step {wanted.step} --processes N"
        raise SftError(where=f"--step {wanted.step}", problem=problem, fix=fix)
    bare = find_bare_model(typed, wanted.out, served=SERVED in words) if wanted.step is None else None
    directory = open_run_at_step(typed, wanted.step, "sft eval") if bare is None else bare.results
    if bare is None and wanted.out is not None:
        problem = f"the results of a run are in {directory.eval}"
        raise SftError(where=f"--out {wanted.out}", problem=problem, fix="remove --out")
    trained = read_config(directory.config) if bare is None else bare.config()
    composed = eval_config(directory, trained, words, dirs) if bare is None else bare_eval_config(bare, words, dirs)
    config = composed if wanted.questions is None else with_questions(composed, wanted.questions)
    served = config.eval.engine is EvalEngine.openai
    if not is_one and (served or wanted.rescore):
        problem = "a server takes several requests at once" if served else "scoring takes one process"
        fix = "set eval.endpoint.concurrency=N, and remove --processes" if served else "remove --processes"
        raise SftError(where="--processes", problem=f"one process evaluates: {problem}", fix=fix)
    if wanted.blame and (bare is not None or served):
        problem = "only a run names the rows that its model was trained on"
        raise SftError(where="--blame", problem=problem, fix="remove --blame")
    if wanted.rescore:
        return typed, partial(_rescore, directory, trained if bare is None else None, config, blame=wanted.blame)
    if served:
        name = typed if bare is None else bare.path
        check_served(name, config.eval, compare=wanted.compare)
        return typed, partial(_evaluate_served, name, bare, directory, config)
    if bare is None:
        return str(directory.path), partial(_evaluate_run, directory, trained, config, wanted)
    if wanted.compare and not bare.is_adapter:
        fix = f"evaluate both models, then: sft compare {shlex.quote(str(directory.path))} DIR_OF_THE_OTHER_RESULTS"
        raise SftError(where="--compare base", problem="a whole model names no base", fix=fix)
    check_bare_model(bare, config, "sft eval")
    return typed, partial(_evaluate_bare, bare, config, compare=wanted.compare)


def _open_checkpoints(
    typed: str, words: Sequence[str], dirs: Sequence[str], wanted: Wanted, checkpoints: str, *, is_one: bool
) -> Callable[[], list[str]]:
    """Check the command line with ``--checkpoints``, and return the evaluation of the saved steps.

    Args:
        typed: The argument.
        words: The overrides.
        dirs: Directories of recipes and options.
        wanted: The options.
        checkpoints: The value of ``--checkpoints``.
        is_one: Whether one process evaluates.
    """
    from sft_cli.config.compose import read_config
    from sft_cli.eval.settings import eval_config
    from sft_cli.run_dir import open_run
    from sft_cli.suites.chosen import with_questions

    directory = open_run(typed, "sft eval")
    steps = saved_steps(directory, checkpoints, step=wanted.step, rescore=wanted.rescore)
    trained = read_config(directory.config)
    config = eval_config(directory, trained, words, dirs)
    alone = {
        "--processes": not is_one,
        f"--out {wanted.out}": wanted.out is not None,
        SERVED: config.eval.engine is EvalEngine.openai,
        "--blame": wanted.blame,
    }
    for where, is_set in alone.items():
        if is_set:
            problem = "saved steps are evaluated one after the other, by this process, into the run directory"
            raise SftError(where=where, problem=problem, fix=f"remove {where.split()[0]}")
    config = config if wanted.questions is None else with_questions(config, wanted.questions)
    return partial(_evaluate_checkpoints, directory, trained, config, steps, compare=wanted.compare)


def _rescore(directory: "RunDir", trained: "Config | None", config: "Config", *, blame: bool) -> list[str]:
    """Score the stored answers of a run, or of a model without one, again."""
    from sft_cli.suites.rescore import rescore_run

    rescored, names = rescore_run(directory, config), list(config.eval.suites)
    if blame and trained is not None:
        from sft_cli.blame.blame import blame_run

        blame_run(directory, trained, names if names != ["heldout"] else [], config.eval.data_dir)
    _finish(directory, config, rescored, has_rows=trained is not None)
    return []


def _finish(directory: "RunDir", config: "Config", suites: Sequence[str], *, has_rows: bool) -> None:
    """Measure the overlap of suites with the training rows, and the alignment tax, and write the page.

    Args:
        directory: The run, or the directory of the results of a model.
        config: The config of the evaluation.
        suites: Names of the suites that were evaluated.
        has_rows: Whether the training rows are known.
    """
    from sft_cli.console import say
    from sft_cli.eval_report.overlap import measure_overlap
    from sft_cli.eval_report.page import write_eval_report
    from sft_cli.eval_report.retention import report_retention

    if suites and has_rows:
        measure_overlap(directory, config.eval.data_dir, [name for name in suites if name != "heldout"])
    report_retention(directory, config.eval.retention)
    if (file := write_eval_report(directory)) is not None:
        say(f"page      {file}")


def _evaluate_served(name: str, bare: "BareModel | None", directory: "RunDir", config: "Config") -> list[str]:
    """Evaluate the model of a server; return the values beyond their limits."""
    from sft_cli.eval.bare_model import claim_results

    suites = _checked_suites(config.eval)
    if bare is not None:
        claim_results(bare)
    status("loading   the engine")
    with slow_imports():
        from sft_cli.eval.served_session import evaluate_served

    beyond = evaluate_served(name, "tuned" if bare is None else "model", config, suites, directory.eval)
    _finish(directory, config, [suite.name for suite in suites], has_rows=bare is None)
    return beyond


def _evaluate_run(directory: "RunDir", trained: "Config", config: "Config", wanted: Wanted) -> list[str]:
    """Evaluate a run; return the values beyond their limits."""
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_rows
    from sft_cli.suites.chosen import evaluates_heldout

    with joined_processes(config) as main_first:
        chosen = evaluates_heldout(config.eval)
        rows = main_first(partial(select_rows, directory, trained, config)) if chosen else None
        suites = main_first(partial(_checked_suites, config.eval, directory))
        status("loading   torch and the model's configuration")
        with slow_imports():
            from sft_cli.eval.evaluated import evaluated_run
            from sft_cli.eval.session import NamedRows, evaluate_model

        heldout = None if rows is None else NamedRows(rows, report_name(rows, trained, config))
        model = evaluated_run(directory, config)
        beyond = evaluate_model(model, config, heldout, suites, compare=wanted.compare).beyond_limits
    if rank_from_env().is_main:
        names = [suite.name for suite in suites]
        if wanted.blame:
            from sft_cli.blame.blame import blame_run

            blame_run(directory, trained, [*names, "heldout"] if chosen else names, config.eval.data_dir)
        _finish(directory, config, names, has_rows=True)
    return beyond


def _evaluate_checkpoints(
    directory: "RunDir", trained: "Config", config: "Config", steps: Sequence[int], *, compare: bool
) -> list[str]:
    """Evaluate saved steps of a run; return the values beyond their limits, with their steps."""
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_rows
    from sft_cli.suites.chosen import evaluates_heldout

    rows = select_rows(directory, trained, config) if evaluates_heldout(config.eval) else None
    suites = _checked_suites(config.eval, directory)
    status("loading   torch and the model's configuration")
    with slow_imports():
        from sft_cli.eval.session import NamedRows

    heldout = None if rows is None else NamedRows(rows, report_name(rows, trained, config))
    return evaluate_checkpoints(directory, steps, config, heldout, suites, compare=compare)


def _evaluate_bare(model: "BareModel", config: "Config", *, compare: bool) -> list[str]:
    """Evaluate a model that no run belongs to; return the values beyond their limits."""
    from sft_cli.eval.bare_model import claim_results, evaluated_bare_model, needs_template
    from sft_cli.eval.report_name import report_name
    from sft_cli.eval.select_rows import select_bare_rows
    from sft_cli.suites.chosen import evaluates_heldout

    with joined_processes(config) as main_first:
        suites = main_first(partial(_checked_suites, config.eval))
        by_template = needs_template(config.eval)
        evaluated = main_first(partial(evaluated_bare_model, model, config, needs_template=by_template))
        chosen = evaluates_heldout(config.eval)
        rows = main_first(partial(select_bare_rows, model.typed, config)) if chosen else None
        main_first(partial(claim_results, model))
        status("loading   torch and the model's configuration")
        with slow_imports():
            from sft_cli.eval.session import NamedRows, evaluate_model

        heldout = None if rows is None else NamedRows(rows, report_name(rows, model.config(), config))
        beyond = evaluate_model(evaluated, config, heldout, suites, compare=compare).beyond_limits
    if rank_from_env().is_main:
        _finish(model.results, config, [suite.name for suite in suites], has_rows=False)
    return beyond


def _checked_suites(config: "EvalConfig", run: "RunDir | None" = None) -> "list[LoadedSuite]":
    """Return the chosen suites; wrong limits and unknown tasks are refused before the model is loaded.

    Args:
        config: The settings of the evaluation.
        run: The run whose rows suites may be made of; None for a model without one.
    """
    from sft_cli.eval.drift_limits import check_limits
    from sft_cli.eval.memorisation import memorisation_suites
    from sft_cli.suites.chosen import chosen_suites

    suites = [*chosen_suites(config), *memorisation_suites(run, config)]
    check_limits(config.limits)
    if config.lm_eval.tasks:
        from sft_cli.eval.harness import task_manager

        task_manager(config.lm_eval)
    return suites
