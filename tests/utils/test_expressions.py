"""Expressions of figures: numbers, names, + - * and parentheses, and nothing else."""

import pytest

from sft_cli.utils.expressions import ExpressionError, parse_expression

FIGURES = {"ifeval.strict": 0.5, "facts.exact": 0.25, "heldout.loss": 2.0, "my-suite.pass@5": 1.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5*ifeval.strict + 0.5*facts.exact", 0.375),
        ("ifeval.strict-facts.exact", 0.25),
        ("ifeval.strict - facts.exact - heldout.loss", -1.75),
        ("-heldout.loss", -2.0),
        ("2*(ifeval.strict + facts.exact)*-heldout.loss", -3.0),
        ("my-suite.pass@5 - 1e-1*heldout.loss", 0.8),
        ("ifeval.strict-my-suite.pass@5", -0.5),
        ("+(.5)", 0.5),
    ],
)
def test_values(text, value):
    assert parse_expression(text).evaluate(FIGURES) == pytest.approx(value)


def test_names_and_missing_figures():
    expression = parse_expression("a.x + 2*b.y - a.x")
    assert expression.names == ("a.x", "b.y")
    assert expression.evaluate({"a.x": 1.0}) is None
    assert expression.evaluate({"a.x": 1.0, "b.y": None}) is None
    assert expression.evaluate({"a.x": 1.0, "b.y": 0.0}) == 0.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it ends where"),
        ("0.5*", "it ends where"),
        ("(a.x", "a parenthesis is not closed"),
        ("a.x)", "is not expected after"),
        ("a.x b.y", "is not expected after"),
        ("a.x / b.y", "'/' is neither"),
        ("loss", "'loss' is neither"),
        ("__import__('os').system('id')", "is neither"),
        ("a.x ** 2", "'*' is where a number"),
        ("(" * 2000 + "1" + ")" * 2000, "longer than 200"),
    ],
)
def test_other_texts_are_refused(text, problem):
    with pytest.raises(ExpressionError) as error:
        parse_expression(text)
    assert problem in str(error.value)


def test_the_deepest_accepted_expression_is_evaluated():
    text = "(" * 99 + "1" + ")" * 99
    assert len(text) == 199
    assert parse_expression(text).evaluate({}) == 1.0
    assert parse_expression("-" * 199 + "1").evaluate({}) == -1.0
