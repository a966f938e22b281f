"""What decides what a run learns: the settings and data a resumed run must share with its beginning."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.config.validate import format_value
from sft_cli.errors import SftError
from sft_cli.utils.mappings import flatten

NOT_LEARNING = (
    "run_name",
    "run_dir",
    "prepared_dir",
    "eval.",
    "launcher.",
    "distributed.",
    "data.",  # the digest of the prepared rows stands for it
    "clean.",
    "speed.",
    "trainer.retention.",
    "trainer.device",
    "trainer.eval_every",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.patience",
    "trainer.on_nan",
    "trainer.spike_factor",
)
"""Keys that decide where and when, not what is learned: they may change on resuming."""

LENGTH = ("trainer.max_steps", "trainer.epochs")
"""Keys that decide when a run ends."""


def settings(config: Config) -> dict[str, Any]:
    """Every key that decides what is learned, dotted, with its plain value."""
    return {key: value for key, value in every_key(config).items() if not key.startswith(NOT_LEARNING)}


def every_key(config: Config) -> dict[str, Any]:
    """Every key, dotted, with its plain value."""
    return {key: _as_json(value) for key, value in flatten(asdict(config))}


def different(began: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both; null where one has no such key."""
    pairs = {key: (began.get(key), now.get(key)) for key in sorted({*began, *now})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def identity(config: Config, content: str, dtype: str) -> dict[str, Any]:
    """What a checkpoint must agree with: the data, the adapters begun with, the settings and the type computed in."""
    from sft_cli.model.adapter.warm_start import (
        initial_adapter_digests,  # brings torch; settings are compared before it is needed
    )

    return {"data": content, **settings(config), **initial_adapter_digests(config.adapter), "trainer.dtype": dtype}


def refuse_other(run: Path, saved: Mapping[str, Any], now: Mapping[str, Any], where: Path | None = None) -> None:
    """Refuse to go on with other data or settings than a run began with.

    Args:
        run: The run directory.
        saved: The values it began with, by key.
        now: Those of now.
        where: The file or directory that holds the saved values; None for the run.

    Raises:
        SftError: The keys that differ, with both values.
    """
    differing = list(different(saved, now).items())
    if differing:
        shown = "; ".join(
            f"{key} was {format_value(old)}, is now {format_value(new)}" for key, (old, new) in differing[:5]
        )
        raise SftError(
            where=str(where or run), problem=f"the run began with other settings: {shown}", fix=_fix(run, differing)
        )


def _fix(run: Path, differing: Sequence[tuple[str, Any]]) -> str:
    """What to type instead; who wants to end a run early takes one of its saved steps."""
    shown = shlex.quote(str(run))
    fix = f"resume with its own settings: sft train --resume {shown}"
    steps = [int(place.name.removeprefix("step-")) for place in run.glob("checkpoints/step-*")]
    if steps and all(key in LENGTH for key, _ in differing):
        return f"{fix}; to end it early, take a saved step: sft eval {shown} --step {max(steps)} (chat and merge, too)"
    return f"{fix}; or start a new run"


def _as_json(value: Any) -> Any:
    """The value as it is read from JSON: enums by their value, tuples as lists."""
    return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
