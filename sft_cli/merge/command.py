"""`sft merge`: what to merge, into what, and where to; only then torch is loaded."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from sft_cli.config.compose import load, with_overrides
from sft_cli.config.keys import typos
from sft_cli.config.overrides.parse import named_run, refuse_idle, split_off
from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, AdapterKind, Init, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir, open_run

OWN = ("run", "out", "into", "max_kl")
INTO = ("original", "dequantized")
READ = ("model.path", "model.revision", "model.trust_remote_code", "trainer.device")
"""Keys that may differ from the run's config; anything else would have no effect."""


def merge_command(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Body of ``sft merge run=DIR [out=DIR] [into=original|dequantized] [max_kl=NATS]``; without out, it is DIR/merged.

    Raises:
        SftError: It cannot be merged, or the merged model says something else than the adapter; nothing is left.
    """
    own, rest = split_off(overrides, OWN)
    run = open_run(named_run("sft merge", own, rest))
    refuse_idle("sft merge", rest, own=OWN, read=READ, not_read={}, settable=", ".join((*OWN, *READ)))
    into, max_kl = chosen_into(own), chosen_max_kl(own)
    config = load(run.config)
    if rest:
        config = with_overrides(config, rest, config_dirs)
    out = Path(own["out"]).expanduser() if "out" in own else run.path / "merged"
    refuse(run, config, into, out)
    from sft_cli.merge.merge import merge

    merge(run, config, out=out, into=into, max_kl=max_kl)


def chosen_into(own: Mapping[str, str]) -> str:
    """What the adapter is added to."""
    into = own.get("into", INTO[0])
    if into not in INTO:
        raise SftError(
            where=f"into={into}", problem="there is no such base to merge into", fix=f"into={' or into='.join(INTO)}"
        )
    return into


def chosen_max_kl(own: Mapping[str, str]) -> float | None:
    """The limit of the divergence in nats; None for the default of the merged weights' type."""
    text = own.get("max_kl")
    if text is None:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise SftError(
            where=f"max_kl={text}", problem="the limit is a number of nats above 0", fix=typos.positive("max_kl", text)
        )
    return limit


def refuse(run: RunDir, config: Config, into: str, out: Path) -> None:
    """What can be found wrong before any weight is read."""
    result, quoted = run.result, shlex.quote(str(out))
    kind = config.adapter.kind
    if kind in WHOLE:
        trained = "the model's own weights were" if kind is AdapterKind.none else "the biases themselves were"
        raise SftError(
            where=f"run={run.path}",
            problem=f"{trained} trained, so there is no adapter to merge",
            fix=f"the model is whole already: cp -r {shlex.quote(str(result))} {quoted}",
        )
    if kind not in MERGEABLE:
        raise SftError(
            where=f"run={run.path}",
            problem=f"an adapter of kind {kind.value} acts beside the weights and cannot be added to them",
            fix=f"serve it as it is, with PEFT: PeftModel.from_pretrained(base, {str(result)!r})",
        )
    if config.adapter.init is Init.loftq and into != "dequantized":
        raise SftError(
            where=f"into={into}",
            problem=f"init loftq put the rounding error of {config.quant.kind.value} into the adapter, which the"
            " original base does not have",
            fix="into=dequantized",
        )
    if into == "dequantized" and config.quant.kind is QuantKind.none:
        raise SftError(
            where="into=dequantized",
            problem="the run's base was not quantised",
            fix="leave into out: the adapter is added to the base as it is",
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
            where=f"out={out}",
            problem="it exists already, and nothing is overwritten",
            fix=f"choose another: {typos.word('out', _free(out))}",
        )


def _free(out: Path) -> Path:
    """The first name like this one where nothing is."""
    return next(path for number in count(2) if not os.path.lexists(path := out.with_name(f"{out.name}-{number}")))
