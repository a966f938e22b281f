"""Check that a resumed run has the settings and data that it began with, as far as they determine the result."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.config.validate import format_value
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.prepare import input_diff
from sft_cli.run_dir import RunDir
from sft_cli.utils.disks import unused_path
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
    "trainer.eval_suites",
    "trainer.eval_suite_items",
    "trainer.best",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.patience",
    "trainer.on_nan",
    "trainer.spike_factor",
)
"""Keys that do not change the trained model: they may change on resuming."""

LENGTH_KEYS = ("trainer.max_steps", "trainer.epochs")
"""Keys that set the length of a run; they may change where the learning rate of the steps done does not depend on
them, see ``resume_length``."""
DATA_KEYS = ("data.", "clean.")
"""Groups of keys whose result, the prepared rows, must stay the same."""
ROW_NEUTRAL_KEYS = ("data.workers", "data.budget.")
"""Keys of these groups that change no row."""


def fixed_settings(config: Config) -> dict[str, Any]:
    """Return the plain values of the keys that determine the trained model, by dotted key."""
    may_change = (*MAY_CHANGE, *LENGTH_KEYS)
    return {key: value for key, value in flatten_config(config).items() if not key.startswith(may_change)}


def flatten_config(config: Config) -> dict[str, Any]:
    """Return the plain values of all keys, by dotted key."""
    return {key: _as_json(value) for key, value in flatten(asdict(config))}


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of each key that differs; a missing value is None."""
    pairs = {key: (old.get(key), new.get(key)) for key in sorted({*old, *new})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def run_fingerprint(config: Config, content: str, dtype: str) -> dict[str, Any]:
    """Return what a checkpoint must have in common with its run: data, initial adapters, settings, compute dtype."""
    # Imported here because it imports torch, which comparing settings does not need.
    from sft_cli.model.adapter.warm_start import initial_adapter_digests

    adapters = initial_adapter_digests(config.adapter)
    return {"data": content, **fixed_settings(config), **adapters, "trainer.dtype": dtype}


def check_same_run(run: Path, saved: Mapping[str, Any], now: Mapping[str, Any], where: Path | None = None) -> None:
    """Refuse to continue a run with other data or settings than it began with.

    Args:
        run: The run directory.
        saved: The values it began with, by key.
        now: The current values.
        where: The file or directory with the saved values; None for the run.

    Raises:
        SftError: The keys that differ, with both values.
    """
    differing = [item for item in changed_settings(saved, now).items() if item[0] not in LENGTH_KEYS]
    if differing:
        shown = "; ".join(
            f"{key} was {format_value(old)}, is now {format_value(new)}" for key, (old, new) in differing[:5]
        )
        raise SftError(
            where=str(where or run),
            problem=f"the run began with other settings: {shown}",
            fix=f"resume with its own settings: sft train --resume {shlex.quote(str(run))};"
            " or start a new run: sft train recipe=NAME run_dir=DIR",
        )


def check_same_rows(run: RunDir, old: Config, new: Config) -> None:
    """Check, without preparing rows, that a config yields the rows that the run began with. Files may have moved.

    Raises:
        SftError: It yields other rows; the error names the keys that differ.
    """
    keys = changed_data_keys(old, new)
    if not keys or not run.manifest.is_file():
        return
    from sft_cli.prepare import manifest as manifests
    from sft_cli.prepare.model_template import load_tokenizer_and_template

    old_inputs = run.read_json(run.manifest)["inputs"]
    new_inputs = manifests.preparation_inputs(new, *load_tokenizer_and_template(new))
    stages = ("rows", "clean", "encode", "mix")
    if any(_without_versions(old_inputs[stage]) != _without_versions(new_inputs[stage]) for stage in stages):
        old_values, new_values = ({key: pair[side] for key, pair in keys.items()} for side in (0, 1))
        check_same_run(run.path, old_values, new_values)


def changed_data_keys(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of each data key that differs."""
    changed = changed_settings(flatten_config(old), flatten_config(new))
    return {
        key: pair for key, pair in changed.items() if key.startswith(DATA_KEYS) and not key.startswith(ROW_NEUTRAL_KEYS)
    }


def check_same_data(directory: RunDir, prepared: PreparedData) -> None:
    """Refuse to resume a run with other prepared rows than it began with, before any file of the run is overwritten.

    Raises:
        SftError: The rows differ; the error names the inputs that changed.
    """
    if directory.data.is_file() and directory.read_json(directory.data)["content"] != prepared.manifest["content"]:
        inputs = directory.read_json(directory.manifest)["inputs"]
        changed = ", ".join(input_diff.changed_names(inputs, prepared.manifest["inputs"])) or input_diff.THIS_VERSION
        new = shlex.quote(str(unused_path(directory.path)))
        raise SftError(
            where=str(directory.path),
            problem=f"the run began with other rows: {changed} changed since",
            fix=f"undo the change and resume, or start a new run with run_dir={new}",
        )


def _as_json(value: Any) -> Any:
    """Return the value as JSON stores it: enums by their value, tuples as lists."""
    return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value


def _without_versions(stage: Any) -> Any:
    """Return the inputs of a stage without versions of code and libraries; files are compared by content only."""
    if isinstance(stage, Mapping):
        return {
            key: _without_versions(value) for key, value in stage.items() if key not in ("code", "libraries", "licence")
        }
    if not isinstance(stage, list):
        return stage
    files = all(isinstance(entry, list) and len(entry) == 2 for entry in stage)
    return [_without_versions(entry[1] if files else entry) for entry in stage]
