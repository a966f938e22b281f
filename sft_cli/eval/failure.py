"""Recognize a model that gives every question the same wrong answer: it has not learned to answer."""

from collections import Counter
from collections.abc import Sequence

from sft_cli.config.automatic import PASSES
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.data.row_errors import short_repr
from sft_cli.scoring.normalize import is_exact_match, normalize_answer

MIN_QUESTIONS = 4
"""Number of questions from which equal answers are no coincidence."""
SAME_SHARE = 0.9
"""Share of equal answers from which a warning is given."""
FACTOR = 3
"""How many times longer the advised training is."""


def failure_warning(expected: Sequence[str], answers: Sequence[str], config: Config) -> str | None:
    """Return a warning with its remedy if no answer is correct and nearly all are the same; None otherwise.

    Args:
        expected: The reference answers.
        answers: The generated answers.
        config: The config of the run.
    """
    if len(answers) < MIN_QUESTIONS or any(map(is_exact_match, answers, expected)):
        return None
    normalized = [normalize_answer(answer) for answer in answers]
    ((answer, number),) = Counter(normalized).most_common(1)
    if number < SAME_SHARE * len(answers):
        return None
    return (
        f"{number} of {len(answers)} answers are the same, {short_repr(answer)}, and none is correct: the model has not"
        f" learned to answer; train longer ({_longer(config)}) or on more rows (facts that only held-out rows state"
        " cannot be learned from other rows)"
    )


def _longer(config: Config) -> str:
    """Return the setting that makes the run longer."""
    trainer = config.trainer
    if trainer.max_steps is not None:
        return f"trainer.max_steps={FACTOR * trainer.max_steps}"
    return f"trainer.epochs={FACTOR * (PASSES if isinstance(trainer.epochs, Auto) else trainer.epochs)}"
