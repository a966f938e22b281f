"""What can be found wrong with a merge before torch is loaded."""

import os
import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, AdapterKind, Init, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir

READ = ("model.path", "model.revision", "model.trust_remote_code", "trainer.device")
"""Keys that may differ from the run's config; anything else would have no effect."""


def merge_config(run: RunDir, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the run's config with the overrides of ``sft merge``.

    Raises:
        SftError: An override would have no effect on a merge.
    """
    reject_unused("sft merge", overrides, read=READ, not_read={}, settable=", ".join(READ))
    config = read_config(run.config)
    return with_overrides(config, overrides, config_dirs) if overrides else config


def check_mergeable(run: RunDir, config: Config, into: str, out: Path) -> None:
    """Check that a run can be merged, before any weight is read."""
    result, quoted = run.result, shlex.quote(str(out))
    kind = config.adapter.kind
    if kind in WHOLE:
        trained = "the model's own weights were" if kind is AdapterKind.none else "the biases themselves were"
        raise SftError(
            where=str(run.path),
            problem=f"{trained} trained, so there is no adapter to merge",
            fix=f"the model is whole already: cp -r {shlex.quote(str(result))} {quoted}",
        )
    if kind not in MERGEABLE:
        raise SftError(
            where=str(run.path),
            problem=f"an adapter of kind {kind.value} is not an update of the weights and cannot be merged",
            fix=f"serve it as it is, with PEFT: PeftModel.from_pretrained(base, {str(result)!r})",
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
            problem="the run's base was not quantised",
            fix="leave --into out: the adapter is added to the base as it is",
        )
    needed = (run.environment, run.manifest, run.metrics, run.probes, result / "generation_config.json")
    if missing := [file for file in needed if not file.is_file()]:
        raise SftError(
            where=str(missing[0]),
            problem="the run directory is not whole: this file is missing",
            fix="copy it from where the run was trained",
        )
    if os.path.lexists(out):
        raise SftError(
            where=f"--out {out}",
            problem="it exists already, and nothing is overwritten",
            fix=f"choose another: --out {shlex.quote(str(_free(out)))}",
        )


def _free(out: Path) -> Path:
    """Return the first name like this one where nothing is."""
    return next(path for number in count(2) if not os.path.lexists(path := out.with_name(f"{out.name}-{number}")))
