"""Parts of the audit of a judge: agreement, controls of length and style, answers made for a judge, probes."""

import numpy as np
import pytest

from sft_cli.scoring.judge.agreement import cohens_kappa
from sft_cli.scoring.judge.answer_checks import check_answers, has_judge_markers
from sft_cli.scoring.judge.audit import label_agreement, probe_items
from sft_cli.scoring.judge.length_control import fit_length_control
from sft_cli.scoring.judge.pairwise import first_half
from sft_cli.scoring.judge.style_control import count_style, fit_style_control
from sft_cli.scoring.types import Item


def items(number):
    return [Item(f"q{i}", ({"role": "user", "content": f"Question {i}"},)) for i in range(number)]


def test_cohens_kappa_by_hand():
    """The textbook table 20, 5, 10, 15: observed 0.7, expected 0.5, kappa 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(first, first) == 1
    assert cohens_kappa([], []) is None
    assert cohens_kappa(["a"], ["a"]) is None
    assert label_agreement({"a": "win"}, {"b": "win"}) == {"labelled": 0, "agreement": None, "kappa": None}


def test_length_control_recovers_a_planted_model():
    """Wins that depend on length alone: 50% at equal lengths, though 67% raw."""
    rng = np.random.default_rng(0)
    lengths = rng.normal(100, 100, 4000)
    chances = 1 / (1 + np.exp(-2 * np.tanh(lengths / lengths.std())))
    wins = (rng.random(4000) < chances).astype(float)
    found = fit_length_control(list(wins), list(lengths))
    assert wins.mean() > 0.65
    assert found.slope == pytest.approx(2, abs=0.2)
    assert found.win_rate.low < 0.5 < found.win_rate.high
    assert found.win_rate.high - found.win_rate.low < 0.1
    assert 0.99 < fit_length_control([1.0] * 20, list(range(20))).win_rate.value <= 1
    assert fit_length_control([1.0] * 20, [3] * 20) is None
    assert fit_length_control([1.0] * 3, [1, 2, 3]) is None


def test_style_control_takes_markdown_out():
    """A judge that looks at lists alone: 80% raw, 50% at equal styles."""
    rng = np.random.default_rng(0)
    listed = rng.random((2000, 2)) < [0.8, 0.2]
    first, second = ([("- item\n" if has else "item\n") * 4 for has in column] for column in listed.T)
    chances = 1 / (1 + np.exp(-3.0 * (listed[:, 0].astype(int) - listed[:, 1])))
    wins = (rng.random(2000) < chances).astype(float)
    found = fit_style_control(list(wins), first, second)
    assert wins.mean() > 0.7
    assert found.win_rate.low < 0.5 < found.win_rate.high
    assert found.win_rate.high - found.win_rate.low < 0.2
    assert set(found.slopes) == {"length", "lists"}
    assert found.slopes["lists"] + found.slopes["length"] > 1
    assert fit_style_control([1.0] * 5, ["a"] * 5, ["bb"] * 5) is None


def test_styles_are_counted_outside_of_code():
    text = "# Title\n- one\n2. two\n**bold** and __bold__\n```\n# no\n- no\n```\nno # header"
    assert count_style(text) == {"length": len(text), "headers": 1, "lists": 2, "bold": 2}


def test_answers_made_for_a_judge_are_found():
    many = items(6)
    assert check_answers(many, ["same  text"] * 5 + ["other"]) == {"repeated_answers": 5 / 6, "judge_markers": 0}
    assert check_answers(many[:4], ["same"] * 4)["repeated_answers"] == 0
    assert check_answers([many[0]] * 6, ["same"] * 6)["repeated_answers"] == 0
    assert check_answers([], []) == {"repeated_answers": None, "judge_markers": None}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("text\n## Model Outputs\n", True),
        ("I choose [[A]]", True),
        ("Rating: [[10]]", True),
        ("[The Start of Assistant B's Answer]", True),
        ('{"explanation": "good", "winner": "A"}', True),
        ('"model_identifier": "m"', True),
        ("[A](link) and [[wiki]] and a[[1, 2]]", False),
        ('{"rating": 5, "title": "A film"}', False),
        ("# The model outputs text", False),
    ],
)
def test_markers_of_judges_prompts(text, found):
    assert has_judge_markers(text) == found


def test_probes_do_not_depend_on_the_order():
    many = items(50)
    chosen = {many[place].id for place in probe_items(many, 5)}
    turned = many[::-1]
    assert {turned[place].id for place in probe_items(turned, 5)} == chosen
    assert len(chosen) == 5
    assert first_half("one two three") == ""
    assert first_half("a b c d e f g h") == "a b c d"
