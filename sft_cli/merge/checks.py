"""Checks of a merge that do not need torch."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, AdapterKind, Init, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.disks import unused_path

READ = ("model.path", "model.revision", "model.trust_remote_code", "trainer.device")
"""Keys that may differ from the run's config; anything else would have no effect."""


def merge_config(
    run: RunDir, overrides: Sequence[str], config_dirs: Sequence[str], command: str = "sft merge"
) -> Config:
    """Return the run's config with the overrides of a command that merges.

    Raises:
        SftError: An override would have no effect on a merge.
    """
    reject_unused(command, overrides, read=READ, not_read={}, settable=", ".join(READ))
    config = read_config(run.config)
    return with_overrides(config, overrides, config_dirs) if overrides else config


def check_mergeable(run: RunDir, config: Config, into: str, out: Path) -> None:
    """Check that a run can be merged, before any weight is read."""
    result, quoted_out = run.result, shlex.quote(str(out))
    kind = config.adapter.kind
    if kind in WHOLE:
        trained = "weights" if kind is AdapterKind.none else "biases"
        raise SftError(
            where=str(run.path),
            problem=f"the run trained the model's own {trained}, so there is no adapter to merge",
            fix=f"the model is already complete: cp -r {shlex.quote(str(result))} {quoted_out}",
        )
    if kind not in MERGEABLE:
        raise SftError(
            where=str(run.path),
            problem=f"an adapter of kind {kind.value} is not an update of the weights and cannot be merged",
            fix=f"serve it with PEFT: PeftModel.from_pretrained(base, {str(result)!r})",
        )
    if config.adapter.init is Init.loftq and into != "dequantized":
        raise SftError(
            where=f"--into {into}",
            problem=f"init loftq put the rounding error of {config.quant.kind.value} into the adapter, which the"
            " original base does not have",
            fix="--into dequantized",
        )
    if into == "dequantized" and config.quant.kind is QuantKind.none:
        raise SftError(
            where="--into dequantized",
            problem="the run's base was not quantized",
            fix="remove --into: the adapter is added to the original base",
        )
    needed = (run.environment, run.manifest, run.metrics, run.probes, result / "generation_config.json")
    if missing := [file for file in needed if not file.is_file()]:
        raise SftError(
            where=str(missing[0]),
            problem="the run directory is incomplete: this file is missing",
            fix="copy it from the machine on which the run was trained",
        )
    check_new(out)


def check_new(out: Path) -> None:
    """Refuse a directory for a result if it exists."""
    if os.path.lexists(out):
        raise SftError(
            where=f"--out {out}",
            problem="it already exists, and nothing is overwritten",
            fix=f"choose another directory: --out {shlex.quote(str(unused_path(out)))}",
        )
