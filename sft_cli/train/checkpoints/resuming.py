"""What may change when a run is resumed: other data are named by their key before they are prepared."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints.resume_check import different, every_key, refuse_other

DATA = ("data.", "clean.")
"""Sections whose result, the prepared rows, must stay."""
IDLE = ("data.workers", "data.budget.")
"""Keys of them that change no row."""


def refuse_other_rows(run: RunDir, began: Config, now: Config) -> None:
    """Return if the rows are those that the run began with; files may lie elsewhere. Nothing is prepared.

    Raises:
        SftError: They are not; the keys that differ are named.
    """
    keys = changed_data(began, now)
    if not keys or not run.manifest.is_file():
        return
    from sft_cli.prepare import manifest as manifests
    from sft_cli.prepare.prepare import read_template

    known, inputs = run.read(run.manifest)["inputs"], manifests.inputs(now, *read_template(now))
    if any(_rules(known[stage]) != _rules(inputs[stage]) for stage in ("rows", "clean", "encode", "mix")):
        refuse_other(run.path, {key: old for key, (old, _) in keys.items()}, {k: v for k, (_, v) in keys.items()})


def changed_data(began: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The keys of the data that differ, with both values."""
    found = different(every_key(began), every_key(now))
    return {key: pair for key, pair in found.items() if key.startswith(DATA) and not key.startswith(IDLE)}


def _rules(stage: Any) -> Any:
    """The inputs of a stage without the versions of what computes it, and of files their content alone."""
    if isinstance(stage, Mapping):
        return {key: _rules(value) for key, value in stage.items() if key not in ("code", "libraries", "licence")}
    if not isinstance(stage, list):
        return stage
    files = all(isinstance(one, list) and len(one) == 2 for one in stage)
    return [_rules(one[1] if files else one) for one in stage]


def as_new(run: RunDir, config: Config, words: Sequence[str]) -> str:
    """The command that trains on from a finished run's result as a new run, with further settings."""
    own = shlex.quote(str(run.path / "config.yaml"))
    begun = f"model.path={run.model}" if config.adapter.kind in WHOLE else f"adapter.start_from={run.path}"
    further = [begun, f"run_dir={run.path}-2", *words]
    return f"sft train recipe={own} {' '.join(map(shlex.quote, further))}"
