"""The base model's scores beside those of the trained model (``eval.compare_after_training``)."""

import shlex
from typing import Any

from sft_cli.config.schema.adapter import MERGEABLE
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.model.adapter.warm_start import initial_adapters
from sft_cli.model.head.kl_reference import KLReference, make_kl_reference
from sft_cli.run_dir import RunDir
from sft_cli.train.context import Run
from sft_cli.train.monitoring.evaluator import Watch


def base_afterwards(config: Config, run: Run) -> KLReference | None:
    """How to make the base of the trained model, if it is wanted and can be had after training.

    The first step then comes seconds sooner, and the base computes without an adapter. A run that begins with an
    adapter is compared with that, and one that trains the base's own weights has no base afterwards.
    """
    switched = config.adapter.kind in MERGEABLE and not initial_adapters(config.adapter)
    return make_kl_reference(run.model.model) if config.eval.compare_after_training and switched else None


def base_before(config: Config, directory: RunDir, watch: Watch, *, begun: bool) -> dict[str, Any] | None:
    """Scores of the model that training begins with, if they are wanted; they can only be had before the first step."""
    if not config.eval.compare_after_training:
        return None
    if begun and not directory.before.is_file():
        raise SftError(
            where="eval.compare_after_training",
            problem="the run has begun without it, and the base was not evaluated then",
            fix=f"leave it out, and compare later: sft eval {shlex.quote(str(directory.path))} --compare base",
        )
    return watch.base(directory)


def compare(directory: RunDir, watch: Watch, base: KLReference | None, before: dict[str, Any] | None) -> None:
    """Print the scores of base and tuned model, where they are wanted."""
    if base is not None:
        with base.active():
            before = watch.base(directory)
    if before is not None:
        watch.compare(before, directory)
