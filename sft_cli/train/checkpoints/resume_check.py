"""Check that a resumed run has the settings and data of its start, as far as they determine the result."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import format_value
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.prepare import input_diff
from sft_cli.run_dir import RunDir
from sft_cli.utils.mappings import flatten

MAY_CHANGE = (
    "run_name",
    "run_dir",
    "prepared_dir",
    "eval.",
    "launcher.",
    "distributed.",
    "data.",  # compared by the digest of the prepared rows
    "clean.",
    "speed.",
    "trainer.retention.",
    "trainer.device",
    "trainer.deterministic",
    "trainer.eval_every",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.patience",
    "trainer.on_nan",
    "trainer.spike_factor",
)
"""Keys that do not change the trained model: they may change on resuming."""

LENGTH_KEYS = ("trainer.max_steps", "trainer.epochs")
"""Keys that decide when a run ends."""
DATA_KEYS = ("data.", "clean.")
"""Groups of keys whose result, the prepared rows, must stay the same."""
ROW_NEUTRAL_KEYS = ("data.workers", "data.budget.")
"""Keys of these groups that change no row."""


def fixed_settings(config: Config) -> dict[str, Any]:
    """Return the dotted keys that determine the trained model, with their plain values."""
    return {key: value for key, value in flatten_config(config).items() if not key.startswith(MAY_CHANGE)}


def flatten_config(config: Config) -> dict[str, Any]:
    """Return all keys, dotted, with their plain values."""
    return {key: _as_json(value) for key, value in flatten(asdict(config))}


def changed_settings(began: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values; None where one has no such key."""
    pairs = {key: (began.get(key), now.get(key)) for key in sorted({*began, *now})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def run_fingerprint(config: Config, content: str, dtype: str) -> dict[str, Any]:
    """Return the values that a checkpoint must share: data, initial adapters, settings, type of computation."""
    # Imports torch, which comparing settings does not need.
    from sft_cli.model.adapter.warm_start import initial_adapter_digests

    adapters = initial_adapter_digests(config.adapter)
    return {"data": content, **fixed_settings(config), **adapters, "trainer.dtype": dtype}


def check_same_run(run: Path, saved: Mapping[str, Any], now: Mapping[str, Any], where: Path | None = None) -> None:
    """Refuse to continue a run with other data or settings than it began with.

    Args:
        run: The run directory.
        saved: The values it began with, by key.
        now: The current values.
        where: The file or directory that holds the saved values; None for the run.

    Raises:
        SftError: The keys that differ, with both values.
    """
    differing = list(changed_settings(saved, now).items())
    if differing:
        shown = "; ".join(
            f"{key} was {format_value(old)}, is now {format_value(new)}" for key, (old, new) in differing[:5]
        )
        raise SftError(
            where=str(where or run), problem=f"the run began with other settings: {shown}", fix=_fix(run, differing)
        )


def check_same_rows(run: RunDir, began: Config, now: Config) -> None:
    """Check that the config gives the rows that the run began with, without preparing them. Files may have moved.

    Raises:
        SftError: It gives other rows; the error names the keys that differ.
    """
    keys = changed_data_keys(began, now)
    if not keys or not run.manifest.is_file():
        return
    from sft_cli.prepare import manifest as manifests
    from sft_cli.prepare.model_template import load_tokenizer_and_template

    known, inputs = (
        run.read_json(run.manifest)["inputs"],
        manifests.preparation_inputs(now, *load_tokenizer_and_template(now)),
    )
    if any(
        _without_versions(known[stage]) != _without_versions(inputs[stage])
        for stage in ("rows", "clean", "encode", "mix")
    ):
        check_same_run(run.path, {key: old for key, (old, _) in keys.items()}, {k: v for k, (_, v) in keys.items()})


def changed_data_keys(began: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The data keys that differ, with both values."""
    found = changed_settings(flatten_config(began), flatten_config(now))
    return {
        key: pair for key, pair in found.items() if key.startswith(DATA_KEYS) and not key.startswith(ROW_NEUTRAL_KEYS)
    }


def check_same_data(directory: RunDir, prepared: PreparedData) -> None:
    """Refuse to resume a run with other prepared rows than it began with, before any of its files is overwritten.

    Raises:
        SftError: The rows differ; the error names the inputs that changed.
    """
    if directory.data.is_file() and directory.read_json(directory.data)["content"] != prepared.manifest["content"]:
        inputs = directory.read_json(directory.manifest)["inputs"]
        changed = ", ".join(input_diff.changed_names(inputs, prepared.manifest["inputs"])) or input_diff.THIS_VERSION
        raise SftError(
            where=str(directory.path),
            problem=f"the run began with other rows: {changed} changed since",
            fix="undo the change and resume, or start a new run",
        )


def continue_command(run: RunDir, config: Config, words: Sequence[str]) -> str:
    """The command that continues from a finished run's result as a new run, with further settings."""
    own = shlex.quote(str(run.path / "config.yaml"))
    begun = f"model.path={run.model}" if config.adapter.kind in WHOLE else f"adapter.start_from={run.path}"
    further = [begun, f"run_dir={run.path}-2", *words]
    return f"sft train recipe={own} {' '.join(map(shlex.quote, further))}"


def _fix(run: Path, differing: Sequence[tuple[str, Any]]) -> str:
    """Return the fix; to end a run early, it names a saved step."""
    shown = shlex.quote(str(run))
    fix = f"resume with its own settings: sft train --resume {shown}"
    steps = [int(place.name.removeprefix("step-")) for place in run.glob("checkpoints/step-*")]
    if steps and all(key in LENGTH_KEYS for key, _ in differing):
        return f"{fix}; to end it early, use a saved step: sft eval {shown} --step {max(steps)} (or chat, merge)"
    return f"{fix}; or start a new run"


def _as_json(value: Any) -> Any:
    """Return the value as it is read from JSON: enums by their value, tuples as lists."""
    return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value


def _without_versions(stage: Any) -> Any:
    """The inputs of a stage without versions of code and libraries, and files by their content alone."""
    if isinstance(stage, Mapping):
        return {
            key: _without_versions(value) for key, value in stage.items() if key not in ("code", "libraries", "licence")
        }
    if not isinstance(stage, list):
        return stage
    files = all(isinstance(one, list) and len(one) == 2 for one in stage)
    return [_without_versions(one[1] if files else one) for one in stage]
