"""Comparison of the base model's scores with those of the trained model (``eval.compare_after_training``)."""

import shlex
from typing import Any

from sft_cli.config.schema.adapter import MERGEABLE
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.model.adapter.warm_start import initial_adapters
from sft_cli.model.head.kl_reference import KLReference, make_kl_reference
from sft_cli.run_dir import RunDir
from sft_cli.train.context import TrainContext
from sft_cli.train.monitoring.evaluator import HeldOutEvaluator


def base_after_training(config: Config, context: TrainContext) -> KLReference | None:
    """A reference to the base model for scoring after training; None if it is not requested or unavailable by then.

    Training then starts sooner. A run that begins with an adapter is compared with that adapter, and one that trains
    the base's own weights overwrites the base: both are scored before training.
    """
    available = config.adapter.kind in MERGEABLE and not initial_adapters(config.adapter)
    return make_kl_reference(context.model.model) if config.eval.compare_after_training and available else None


def base_before_training(
    config: Config, directory: RunDir, evaluator: HeldOutEvaluator, *, begun: bool
) -> dict[str, Any] | None:
    """Evaluate the model that training begins with, before the first step; None if it is not requested.

    Raises:
        SftError: A resumed run began without these scores.
    """
    if not config.eval.compare_after_training:
        return None
    if begun and not directory.base_scores.is_file():
        raise SftError(
            where="eval.compare_after_training",
            problem="the run began without it, and the base model can no longer be evaluated in this run",
            fix=f"leave it out, then compare with: sft eval {shlex.quote(str(directory.path))} --compare base",
        )
    return evaluator.evaluate_base(directory)


def compare_with_base(
    directory: RunDir, evaluator: HeldOutEvaluator, base: KLReference | None, before: dict[str, Any] | None
) -> None:
    """Print the scores of base and trained model, if they are requested.

    Args:
        directory: The run directory.
        evaluator: The evaluator of the trained model.
        base: The base model, to be scored now; see ``base_after_training``.
        before: Its scores from before training; see ``base_before_training``.
    """
    if base is not None:
        with base.activate():
            before = evaluator.evaluate_base(directory)
    if before is not None:
        evaluator.print_comparison(before, directory)
