"""Checks on resuming that need no prepared data: changed rows are reported by their keys."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints.resume_check import changed_settings, check_same_run, flatten_config

DATA_KEYS = ("data.", "clean.")
"""Groups of keys whose result, the prepared rows, must stay the same."""
ROW_NEUTRAL_KEYS = ("data.workers", "data.budget.")
"""Keys of these groups that change no row."""


def check_same_rows(run: RunDir, began: Config, now: Config) -> None:
    """Check that the config gives the rows that the run began with, without preparing them. Files may have moved.

    Raises:
        SftError: It gives other rows; the error names the keys that differ.
    """
    keys = changed_data_keys(began, now)
    if not keys or not run.manifest.is_file():
        return
    from sft_cli.prepare import manifest as manifests
    from sft_cli.prepare.prepare import load_tokenizer_and_template

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


def continue_command(run: RunDir, config: Config, words: Sequence[str]) -> str:
    """The command that continues from a finished run's result as a new run, with further settings."""
    own = shlex.quote(str(run.path / "config.yaml"))
    begun = f"model.path={run.model}" if config.adapter.kind in WHOLE else f"adapter.start_from={run.path}"
    further = [begun, f"run_dir={run.path}-2", *words]
    return f"sft train recipe={own} {' '.join(map(shlex.quote, further))}"
