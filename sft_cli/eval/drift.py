"""The drift card of an evaluation: the behaviour of a model in all that it answered, and that of its base."""

from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.console import table
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


def print_drift(tuned: Answered, base: Answered = ()) -> None:
    """Print the card of the answers of both models to the same items."""
    if not tuned:
        return
    own = measure_behaviour(tuned)
    others = measure_behaviour(base) if base else {}
    table(*drift_table(own, others))
