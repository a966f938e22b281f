"""What a run directory says about its run, as JSON values: for ``sft runs --json``, ``sft show RUN`` and its page."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.next_commands import has_held_out_rows, next_commands
from sft_cli.train.run_filter import parse_conditions, select_records
from sft_cli.train.run_list import RunSummary, list_runs, read_metrics, summarize_run
from sft_cli.utils.mappings import flatten, nan_to_none

FIGURES = (
    "run",
    "name",
    "state",
    "reason",
    "step",
    "planned_steps",
    "epoch",
    "loss",
    "held_out_loss",
    "best_step",
    "best_held_out_loss",
    "exported_step",
    "model",
    "adapter",
    "rank",
    "tokens_per_second",
    "seconds",
    "memory",
    "changed",
)
"""The keys of ``run_record``."""


def select_runs(
    folders: Sequence[Path], where: Sequence[str], *, figures: bool = False
) -> tuple[list[RunSummary], list[dict[str, Any]]]:
    """Return the runs of ``list_runs`` that fulfil all conditions, and their figures.

    Args:
        folders: The folders; if empty, the default ones.
        where: Conditions on the names in ``FIGURES`` and on dotted keys of the config.
        figures: Whether to return figures also without conditions.

    Raises:
        SftError: A folder does not exist, or a condition is wrong.
    """
    conditions, runs = parse_conditions(where), list_runs(folders)
    if not conditions and not figures:
        return runs, []
    configs = [read_yaml(run.path / "config.yaml") for run in runs]
    records = [nan_to_none(run_record(RunDir(run.path), config)) for run, config in zip(runs, configs, strict=True)]
    if not conditions:
        return runs, records
    named = [{**dict(flatten(config)), **record} for config, record in zip(configs, records, strict=True)]
    chosen = {record["run"] for record in select_records(named, conditions, FIGURES)}
    return [run for run in runs if str(run.path) in chosen], [one for one in records if one["run"] in chosen]


def run_record(run: RunDir, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run, by the names in ``FIGURES``; None for a figure that the run does not have yet.

    Args:
        run: The run directory.
        config: The content of its config.yaml.
    """
    summary = summarize_run(run)
    lines = list(read_metrics(run.metrics))
    steps = [line for line in lines if "loss" in line and "eval" not in line]
    evaluations = [line for line in lines if line.get("eval")]
    best = best_evaluation(evaluations)
    end = _json(run.end) or {}
    adapter = config.get("adapter") or {}
    values = (
        str(run.path.absolute()),
        config.get("run_name"),
        summary.state,
        end.get("reason"),
        summary.step,
        end.get("planned_steps") or _planned_steps(run),
        steps[-1].get("epoch") if steps else None,
        summary.loss,
        summary.held_out,
        best.get("step"),
        best.get("loss"),
        end.get("exported_step"),
        (config.get("model") or {}).get("path"),
        adapter.get("kind"),
        adapter.get("rank"),
        median(line["tokens_per_second"] for line in steps) if _all_have(steps, "tokens_per_second") else None,
        round(sum(line["seconds"] for line in steps), 1) if _all_have(steps, "seconds") else None,
        max((line["memory"] for line in steps), default=None) if _all_have(steps, "memory") else None,
        time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(summary.changed)),
    )
    return dict(zip(FIGURES, values, strict=True))


def run_details(run: RunDir) -> dict[str, Any]:
    """Return all that is known of a run: its figures, data, evaluations, checkpoints, files, commands, config."""
    config = read_yaml(run.config)
    record = run_record(run, config)
    return {
        **record,
        "data": _data(run),
        "evaluations": list(_evaluations(run)),
        "comparison": _comparison(run),
        "checkpoints": [
            checkpoint_dir.checkpoint_step(one) for one in checkpoint_dir.list_checkpoints(run.checkpoints)
        ],
        "spikes": sum(1 for _ in read_metrics(run.spikes)),
        "files": sorted(file.name + "/" * file.is_dir() for file in run.path.iterdir() if file.name[0] != "."),
        "environment": _json(run.environment) or {},
        "next": commands_for(run, record["state"]),
        "config": config,
    }


def best_evaluation(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the best evaluation on held-out rows: by ``trainer.best`` where it was measured, else by the loss."""
    scored = [line for line in evaluations if line.get("best") is not None]
    if scored:
        return max(scored, key=lambda line: line["best"])
    lost = [line for line in evaluations if line.get("loss") is not None]
    return min(lost, key=lambda line: line["loss"], default={})


def commands_for(run: RunDir, state: str) -> list[str]:
    """Return the commands that can be run now with a run in this state."""
    path = shlex.quote(str(run.path))
    if state == "running":
        return [f"sft stop {path}", f"sft stop {path} --export"]
    if not state.startswith("finished"):
        resume = f"sft train --resume {path}"
        return [resume, f"sft stop {path} --export"] if checkpoint_dir.list_checkpoints(run.checkpoints) else [resume]
    from sft_cli.config.compose import read_config

    try:
        return list(next_commands(read_config(run.config), run, held_out=has_held_out_rows(run)))
    except SftError:  # a config of another version
        return [f"sft chat {path}"]


def _data(run: RunDir) -> dict[str, Any]:
    """Return counts of the prepared data, over all rows and by source."""
    manifest, data = _json(run.manifest) or {}, _json(run.data) or {}
    keys = ("examples", "tokens", "trained_tokens", "trained_share")
    splits = {
        name: {key: split.get(key) for key in keys}
        for name, split in manifest.get("splits", {}).items()
        if name in ("train", "validation")
    }
    kept = ("format", "licence", "rows", "used", "dropped", "truncated", "tokens", "trained_tokens")
    sources = {name: {key: entry.get(key) for key in kept} for name, entry in (manifest.get("sources") or {}).items()}
    return {**data, "splits": splits, "sources": sources, "mix": manifest.get("mix") or {}}


def _evaluations(run: RunDir) -> Iterator[dict[str, Any]]:
    """Yield the results of ``sft eval`` on suites and held-out rows that were scored: suite, model, metrics."""
    for file in sorted(run.eval.glob("*/scores.json")):
        definition, scores = _json(file.parent / "suite.json") or {}, _json(file) or {}
        if not isinstance(scores.get("metrics"), dict):
            continue
        label = (definition.get("model") or {}).get("label", "tuned")
        yield {
            "suite": definition.get("suite", file.parent.name),
            "model": label,
            "directory": f"eval/{file.parent.name}",
            "metrics": scores["metrics"],
        }


def _comparison(run: RunDir) -> dict[str, dict[str, Any]] | None:
    """Return the scores of the base and the trained model on the held-out rows; None if they were not compared."""
    before, after = _json(run.base_scores), _json(run.tuned_scores)
    if before is None or after is None:
        return None
    names = ("exact_match", "loss", "stopped_share")
    return {"before": {name: before.get(name) for name in names}, "after": {name: after.get(name) for name in names}}


def _planned_steps(run: RunDir) -> int | None:
    """Return the planned steps that the newest checkpoint names; None without one."""
    saved = checkpoint_dir.list_checkpoints(run.checkpoints)
    state = _json(saved[-1] / "state.json") if saved else None
    return ((state or {}).get("length") or {}).get("num_steps")


def _all_have(lines: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether there are lines and all have a value of this name."""
    return bool(lines) and all(line.get(name) is not None for line in lines)


def _json(file: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if it is absent or damaged, as while it is being written."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
