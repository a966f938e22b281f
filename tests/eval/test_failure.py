"""The warning that a model gives every question the same wrong answer."""

import pytest

from sft_cli.config.schema.config import Config
from sft_cli.eval.failure import MIN_QUESTIONS, failure_warning


@pytest.mark.parametrize(
    ("answers", "warned"),
    [
        (["x"] * 4, True),
        (["x", "X.", " x", "x"], True),
        (["x"] * 9 + ["y"], True),
        (["x"] * 8 + ["y", "z"], False),
        (["x"] * 3, False),
        (["x", "x", "x", "3"], False),
        ([], False),
    ],
)
def test_warning_is_given_for_equal_wrong_answers_only(answers, warned):
    expected = [str(number) for number in range(len(answers))]
    assert (failure_warning(expected, answers, Config()) is not None) == warned


def test_the_samples_of_a_run_are_enough_by_default():
    assert Config().eval.samples >= MIN_QUESTIONS


def test_warning_names_the_setting_of_a_longer_run():
    config = Config()
    start = "4 of 4 answers are the same, 'x', and none is correct: the model has not learned to answer; train longer"
    warning = failure_warning(list("abcd"), ["x"] * 4, config)
    assert warning is not None
    assert warning.startswith(f"{start} (trainer.epochs=9) or on more rows")
    config.trainer.epochs = 2
    assert "(trainer.epochs=6)" in str(failure_warning(list("abcd"), ["x"] * 4, config))
    config.trainer.max_steps = 50
    assert "(trainer.max_steps=150)" in str(failure_warning(list("abcd"), ["x"] * 4, config))
