"""What decides which evaluation of a run is the best: the held-out loss, or the figure of ``trainer.best``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.config.rules.eval_suites import HELD_OUT, HELD_OUT_FIGURES
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.results import answer_settings
from sft_cli.suites.training import metric_names, training_suites
from sft_cli.utils.expressions import Expression, parse_expression
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.similar import closest_name


@dataclass(frozen=True, slots=True)
class Best:
    """The figure of ``trainer.best``, of which more is better.

    Attributes:
        expression: Its text, parsed.
        digest: Digest of the expression and of the items that its figures are measured on: values with another digest
            cannot be compared.
    """

    expression: Expression
    digest: str

    def score(self, values: Mapping[str, Any]) -> float | None:
        """Return the value for the figures of an evaluation; None if one of them was not measured."""
        return self.expression.evaluate(named_figures(values))


@dataclass(frozen=True, slots=True)
class TrainingSuites:
    """The suites of ``trainer.eval_suites`` with the items to ask, and what ``trainer.best`` says."""

    suites: tuple[LoadedSuite, ...]
    best: Best | None


def load_training_suites(config: Config) -> TrainingSuites:
    """Return the suites that are asked during training, and what decides which evaluation is the best.

    Raises:
        SftError: A suite cannot be loaded or scored, or ``trainer.best`` names a figure that none of them has.
    """
    suites = training_suites(config)
    return TrainingSuites(tuple(suites), make_best(config, suites))


def make_best(config: Config, suites: Sequence[LoadedSuite]) -> Best | None:
    """Return what ``trainer.best`` says; None if the held-out loss decides.

    Args:
        config: The settings of the run.
        suites: The suites of ``trainer.eval_suites``.

    Raises:
        SftError: A suite has no figure of a name in the expression.
    """
    if config.trainer.best is None:
        return None
    expression = parse_expression(config.trainer.best)
    known = [f"{suite.name}.{name}" for suite in suites for name in metric_names(suite)]
    known += [f"{HELD_OUT}.{name}" for name in HELD_OUT_FIGURES]
    for name in expression.names:
        if name not in known:
            near = closest_name(name, known)
            raise SftError(
                where=f"trainer.best={expression.text}",
                problem=f"{name} is not measured",
                fix=(f"did you mean {near}? " if near else "") + f"figures: {', '.join(known)}",
            )
    used = [suite for suite in suites if any(name.startswith(f"{suite.name}.") for name in expression.names)]
    items = [[suite.name, suite.fingerprint, answer_settings(suite.config), list(suite.config.scorers),
              [entry.item.id for entry in suite.items]] for suite in used]  # fmt: skip
    return Best(expression, json_digest([expression.text, items]))


def named_figures(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of an evaluation, as metrics.jsonl has them, under their names in ``trainer.best``."""
    heldout = {f"{HELD_OUT}.{name}": values[name] for name in HELD_OUT_FIGURES if name in values}
    suites = values.get("suites", {})
    return heldout | {f"{suite}.{name}": value for suite, found in suites.items() for name, value in found.items()}


def is_better(
    loss: float | None, score: float | None, best_loss: float | None, best_score: float | None, best: Best | None
) -> bool:
    """Return whether an evaluation is better than the best before it; one that is not finite never is.

    Args:
        loss: Its held-out loss; None without held-out rows.
        score: Its value of ``trainer.best``.
        best_loss: The loss of the best evaluation; None before the first.
        best_score: Its value of ``trainer.best``.
        best: What ``trainer.best`` says; None: the loss decides.
    """
    if best is not None:
        return score is not None and math.isfinite(score) and (best_score is None or score > best_score)
    return loss is not None and math.isfinite(loss) and (best_loss is None or loss < best_loss)


def describe_evaluation(values: Mapping[str, Any], best: Best | None) -> str:
    """Return the figures of an evaluation as text for the log."""
    parts = [f"held-out loss {values['loss']:.4f}"] if "loss" in values else []
    parts += [
        f"{suite}.{name} {value:.4g}"
        for suite, found in values.get("suites", {}).items()
        for name, value in found.items()
        if value is not None
    ]
    if best is not None:
        score = values["best"]
        parts.append("trainer.best " + ("not measured" if score is None else f"{score:.4f}"))
    return ", ".join(parts) or "nothing to measure"


def describe_best(best: Best | None, loss: float | None, score: float | None) -> str:
    """Return what made an evaluation the best, as text."""
    if best is None:
        return f"held-out loss {loss:.4f}"
    return f"{best.expression.text} = {score:.4f}"
