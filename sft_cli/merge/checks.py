"""Checks of a merge that do not need torch."""

import math
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


def combination_weights(text: str | None, number: int) -> list[float]:
    """Return the weights of adapters that are combined; by default each has the same share.

    Args:
        text: Numbers with commas between them, or None.
        number: How many adapters there are.

    Raises:
        SftError: They are not as many finite numbers.
    """
    if text is None:
        return [1 / number] * number
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != number or not all(map(math.isfinite, weights)):
        example = ",".join([f"{1 / number:.4g}"] * number)
        raise SftError(
            where=f"--weights {text}",
            problem=f"{number} runs need {number} numbers with commas between them",
            fix=f"--weights {example}",
        )
    return weights


def split_runs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that name runs, and those that set keys."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def check_combine_options(
    combine: str | None, runs: Sequence[str], weights: str | None, density: float | None, step: int | None, into: str
) -> None:
    """Refuse options of a combination that would have no effect, and a combination without runs.

    Args:
        combine: ``--combine``.
        runs: Runs after the first.
        weights: ``--weights``.
        density: ``--density``.
        step: ``--step``.
        into: ``--into``.

    Raises:
        SftError: As described.
    """
    if combine is None:
        unused = [("--weights", weights), ("--density", density)]
        reason = "it belongs to --combine"
        if runs:
            raise SftError(
                where=runs[0],
                problem="several runs are merged only with --combine",
                fix="--combine linear, or one run per command",
            )
    else:
        unused = [("--step", step), ("--into", None if into == "original" else into)]
        unused += [("--density", density)] if combine not in ("ties", "dare") else []
        reason = f"--combine {combine} does not use it"
        if not runs:
            raise SftError(
                where="--combine",
                problem="it combines two runs or more, and one is named",
                fix=f"sft merge RUN1 RUN2 --combine {combine} --out DIR",
            )
    for name, value in unused:
        if value is not None:
            raise SftError(where=name, problem=f"it would have no effect: {reason}", fix=f"remove {name}")
