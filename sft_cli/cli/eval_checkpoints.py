"""``sft eval RUN --checkpoints all``: evaluate saved steps of a run, and print one table of all."""

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sft_cli.config.schema.config import Config
from sft_cli.console import say, table
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.suites.items import LoadedSuite

if TYPE_CHECKING:
    from sft_cli.eval.checkpoints import CheckpointFile
    from sft_cli.eval.session import ModelResults, NamedRows

ALL = "all"


def saved_steps(run: RunDir, typed: str, *, step: int | None, rescore: bool) -> list[int]:
    """Return the steps to evaluate, in ascending order; damaged checkpoints are named and skipped with ``all``.

    Args:
        run: The run.
        typed: The value of ``--checkpoints``.
        step: The value of ``--step``, which must not be set as well.
        rescore: Whether ``--rescore`` is set, which must not be set as well.

    Raises:
        SftError: The value is no list of saved steps, or the run has none.
    """
    from sft_cli.train.checkpoints import checkpoint_dir

    where, path = f"--checkpoints {typed}", shlex.quote(str(run.path))
    if step is not None or rescore:
        other = "--rescore" if rescore else f"--step {step}"
        problem = f"it cannot be combined with {other}"
        raise SftError(where=where, problem=problem, fix=f"sft eval {path} {other}, or remove {other}")
    saved = {checkpoint_dir.checkpoint_step(one): one for one in checkpoint_dir.list_checkpoints(run.checkpoints)}
    if not saved:
        raise SftError(
            where=str(run.checkpoints),
            problem="the run has no checkpoints",
            fix=f"evaluate its result: sft eval {path}, or train with more of them: trainer.save_every=50"
            " trainer.keep_checkpoints=10",
        )
    if typed != ALL:
        return _listed_steps(typed, list(saved), where)
    steps = []
    for number, directory in saved.items():
        if (fault := checkpoint_dir.find_fault(directory)) is None:
            steps.append(number)
        else:
            say(f"warning: checkpoint {directory} is damaged ({fault}); it is not evaluated")
    if not steps:
        fix = f"write them again: sft train --resume {path}"
        raise SftError(where=str(run.checkpoints), problem="all checkpoints are damaged", fix=fix)
    return steps


def _listed_steps(typed: str, saved: Sequence[int], where: str) -> list[int]:
    """Return the steps of a list such as ``10,20``."""
    known = ",".join(map(str, saved))
    if not re.fullmatch(r"\d+(,\d+)*", typed.replace(" ", "")):
        fix = f"--checkpoints all, or --checkpoints {known}"
        raise SftError(where=where, problem="it is neither all nor a list of steps", fix=fix)
    steps = sorted({int(part) for part in typed.split(",")})
    if missing := [step for step in steps if step not in saved]:
        problem = f"the run has no checkpoint of step {', '.join(map(str, missing))}"
        raise SftError(where=where, problem=problem, fix=f"--checkpoints {known}")
    return steps


def evaluate_checkpoints(
    run: RunDir,
    steps: Sequence[int],
    config: Config,
    heldout: "NamedRows | None",
    suites: Sequence[LoadedSuite],
    *,
    compare: bool,
) -> list[str]:
    """Evaluate checkpoints, write ``eval/checkpoints.json`` after each, and print the table of all.

    A checkpoint whose scores are there is not evaluated again; the base is evaluated once, with the first that is.

    Args:
        run: The run.
        steps: The steps of the checkpoints.
        config: The run's config with the overrides of the command line.
        heldout: The rows to evaluate on; None to run only suites.
        suites: The suites with their items.
        compare: Whether to evaluate the base model as well.

    Returns:
        The values that are beyond ``eval.limits``, as text with their steps.
    """
    from sft_cli.eval.checkpoints import (
        BEST_MARK,
        CheckpointFile,
        checkpoint_table,
        settings_digest,
        weights_digest,
    )
    from sft_cli.eval.evaluated import evaluated_run
    from sft_cli.eval.session import evaluate_model
    from sft_cli.train.checkpoints.saved_step import open_run_at_step

    file = CheckpointFile(run.eval / "checkpoints.json")
    settings = settings_digest(config, heldout and f"{heldout.name} {heldout.rows.fingerprint}", suites)
    base_weights = f"{config.model.path}@{config.model.revision}"
    for step in steps:
        exported = open_run_at_step(str(run.path), step, "sft eval")
        weights = weights_digest(exported.result)
        with_base = compare and file.find(None, settings, base_weights) is None
        if file.find(step, settings, weights) is not None and not with_base:
            say(f"kept      step {step}: its scores are in {file.file}")
            continue
        model = evaluated_run(exported, config)
        found = evaluate_model(model, config, heldout, suites, compare=with_base)
        _record(file, step, settings, weights, found.tuned, found.beyond_limits)
        if found.base is not None:
            _record(file, None, settings, base_weights, found.base, ())
    rows = file.rows(settings, steps, with_base=compare)
    table(*checkpoint_table(rows))
    if len(steps) > 1:
        say(f"         {BEST_MARK.strip()} the lowest loss, and the highest value of each score, of these steps")
    say(f"results   {file.file}")
    return [f"step {one.step}: {text}" for one in rows for text in one.beyond_limits]


def _record(
    file: "CheckpointFile",
    step: int | None,
    settings: str,
    weights: str,
    results: "ModelResults",
    beyond_limits: Sequence[str],
) -> None:
    """Add the results of a model to the file.

    Args:
        file: The file.
        step: The step; None for the base model.
        settings: Digest of the settings.
        weights: Digest of the weights.
        results: The results.
        beyond_limits: The values that are beyond ``eval.limits``.
    """
    from dataclasses import asdict

    from sft_cli.eval.checkpoints import CheckpointScores

    scored = {one.suite.name: one.scores["metrics"] for one in results.suites}
    tasks = {name: scores["metrics"] for name, scores in results.tasks.scores.items()}
    file.add(
        CheckpointScores(
            step=step,
            settings=settings,
            weights=weights,
            heldout={} if results.heldout is None else asdict(results.heldout.metrics.overall),
            suites={**scored, **tasks},
            results={one.suite.name: str(one.results.path) for one in results.suites},
            complete=not any(one.stopped for one in results.suites),
            beyond_limits=list(beyond_limits),
        )
    )
