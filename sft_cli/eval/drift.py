"""The drift card of an evaluation: the behaviour of a model in all that it answered, and that of its base."""

from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.console import say, table
from sft_cli.eval.drift_limits import broken_limits, unmeasured_limits
from sft_cli.eval.evaluate import Evaluation
from sft_cli.scoring.behaviour import behaviour_card
from sft_cli.scoring.types import Answer, Item

Answered = Sequence[tuple[Item, Answer]]
"""Items with one answer each."""


def heldout_answers(evaluation: Evaluation) -> Answered:
    """Return the questions of held-out rows with their answers."""
    return [
        (Item(question.where, ({"role": "user", "content": question.prompt},)), Answer(answer.text, "", answer.stopped))
        for question, answer in zip(evaluation.items, evaluation.answers, strict=True)
    ]


def measure_behaviour(answered: Answered) -> Mapping[str, float]:
    """Return the drift card of answers; empty without answers."""
    return behaviour_card([item for item, _ in answered], [answer for _, answer in answered])


def drift_table(tuned: Mapping[str, float], base: Mapping[str, float]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the card: a row for each value that one of the models has and that is not 0.

    Args:
        tuned: The card of the trained model.
        base: The card of the base model on the same items; empty if it was not evaluated.
    """
    columns = ["behaviour", *(["base"] if base else []), "tuned" if base else "value", *(["change"] if base else [])]
    rows: list[list[Any]] = []
    for name, value in tuned.items():
        before = base.get(name)
        if value or before:
            change = [None if before is None else value - before] if base else []
            rows.append([name, *([before] if base else []), value, *change])
    return columns, rows


def print_drift(tuned: Answered, base: Answered = (), limits: Mapping[str, float] | None = None) -> list[str]:
    """Print the card of the answers of both models to the same items.

    Args:
        tuned: The answers of the trained model.
        base: Those of the base model; empty if it was not evaluated.
        limits: ``eval.limits``.

    Returns:
        The values of the trained model that are beyond their limits, as text.
    """
    own, limits = measure_behaviour(tuned), limits or {}
    if missing := unmeasured_limits(own, limits):
        say(f"warning: not measured, so that no limit holds: {', '.join(missing)}")
    if not tuned:
        return []
    others = measure_behaviour(base) if base else {}
    table(*drift_table(own, others))
    broken = broken_limits(own, limits)
    if broken:
        say(f"failed    {'; '.join(broken)}")
    return broken
