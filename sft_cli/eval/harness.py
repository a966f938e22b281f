"""Tasks of lm-evaluation-harness on the engine: its task files, its metrics, our model.

Its log-likelihoods have its own split of context and choice, so every figure is named ``lm_eval_…``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sft_cli.config.schema.suites import LmEvalConfig
from sft_cli.errors import SftError
from sft_cli.eval.engine.local import EngineModel
from sft_cli.eval.harness_model import harness_model
from sft_cli.scoring.statistics import estimate_mean
from sft_cli.suites.choices import LM_EVAL
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.similar import closest_name

KINDS = ("multiple_choice", "generate_until")
"""Kinds of tasks that the engine can answer."""


def task_manager(config: LmEvalConfig) -> Any:
    """Return the tasks of a directory, or those of the package; every chosen one is among them.

    Raises:
        SftError: The package is not installed, or there is no such directory or task.
    """
    if find_spec("lm_eval") is None:
        problem = "lm-evaluation-harness is not installed"
        raise SftError(where="eval.lm_eval.tasks", problem=problem, fix="pip install 'sft-cli[lm-eval]'")
    if config.task_dir is not None and not Path(config.task_dir).is_dir():
        where, problem = f"eval.lm_eval.task_dir={config.task_dir}", "there is no such directory"
        raise SftError(
            where=where,
            problem=problem,
            fix="eval.lm_eval.task_dir=DIR with the YAML files of tasks, or remove eval.lm_eval.task_dir",
        )
    manager = import_module("lm_eval.tasks").TaskManager(
        include_path=config.task_dir, include_defaults=config.task_dir is None
    )
    known = list(manager.all_tasks)
    for name in config.tasks:
        if name not in known:
            near = closest_name(name, known)
            raise SftError(
                where="eval.lm_eval.tasks",
                problem=f"there is no task {name!r} in {config.task_dir or 'lm-evaluation-harness'}",
                fix=f"did you mean {near}?" if near else "list the tasks with: lm-eval ls tasks",
            )
    return manager


def run_tasks(engine: EngineModel, config: LmEvalConfig, manager: Any, limit: int | None) -> dict[str, dict[str, Any]]:
    """Answer and score the tasks, and return their scores by task, as ``scores.json`` of a suite has them.

    Args:
        engine: The model; the caller enters autocast.
        config: The tasks.
        manager: From ``task_manager``.
        limit: Most items of a task.

    Raises:
        SftError: A task is of another kind.
    """
    _refuse_other_kinds(config, manager)
    found = import_module("lm_eval").simple_evaluate(
        model=harness_model(engine),
        tasks=list(config.tasks),
        num_fewshot=config.shots,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=config.chat,
        task_manager=manager,
    )
    return {task: _scores(samples, found["results"][task]) for task, samples in found["samples"].items()}


def _refuse_other_kinds(config: LmEvalConfig, manager: Any) -> None:
    """Refuse tasks that compare whole texts or need greedy tokens of a continuation."""
    for name, task in manager.load(list(config.tasks))["tasks"].items():
        if task.OUTPUT_TYPE not in KINDS:
            raise SftError(
                where="eval.lm_eval.tasks",
                problem=f"the task {name} is of the kind {task.OUTPUT_TYPE}; sft answers {' and '.join(KINDS)}",
                fix=f"remove {name} from eval.lm_eval.tasks, or: lm-eval run --tasks {name}",
            )


def _scores(samples: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a task: means of its items with intervals, and its own totals of other metrics."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                values.setdefault(_name(metric, sample["filter"]), []).append(float(sample[metric]))
    metrics = {name: asdict(estimate_mean(scores)) for name, scores in values.items()}
    for key, total in totals.items():
        metric, _, filter = key.partition(",")
        name = _name(metric, filter)
        if isinstance(total, float) and math.isfinite(total) and filter and not metric.endswith("_stderr"):
            metrics.setdefault(name, {"value": total, "low": None, "high": None, "n": len(samples), "clusters": None})
    items = len({sample["doc_id"] for sample in samples})
    return {"metrics": metrics, "counts": {"items": items, "answered": items, "answers": items}}


def _name(metric: str, filter: str) -> str:
    """Return the name of a metric; a filter is an extraction of the answer."""
    return f"{LM_EVAL}_{metric}" + ("" if filter == "none" else f"_{filter}")


def write_tasks(
    directory: Path, scores: Mapping[str, Mapping[str, Any]], config: LmEvalConfig, identity: Mapping[str, Any]
) -> list[Path]:
    """Write ``lm_eval-<task>-<digest>.json`` of each task, and return the files.

    Args:
        directory: The run's directory of evaluations.
        scores: Scores by task.
        config: The tasks.
        identity: The model and the settings of generation.
    """
    release = version("lm_eval")
    settings = {"shots": config.shots, "chat": config.chat, "lm_eval": release, **identity}
    files = []
    for task, content in scores.items():
        files.append(directory / f"{LM_EVAL}-{task}-{json_digest([task, settings])[:8]}.json")
        directory.mkdir(exist_ok=True)
        text = json.dumps({"task": task, "settings": settings, **content}, ensure_ascii=False, indent=1)
        write_atomic(files[-1], text + "\n")
    return files
