"""Labels and letters in answers: ambiguous ones are wrong and counted apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.errors import SftError
from sft_cli.scoring.metrics.classification import confusion_table, macro_f1
from sft_cli.scoring.registry import make_scorer
from sft_cli.scoring.types import Answer, Verdict
from tests.scoring.items import item, verdict

LABELS = {"labels": ["positive", "negative", "not sure"]}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        (" **Positive.** ", "positive"),
        ("Positive, since it is not negative at all", "(ambiguous)"),
        ("Positive.\nIt could be called negative, but no.", "positive"),
        ("The review is negative.", "negative"),
        ("It is positive and negative.", "(ambiguous)"),
        ("Not sure", "not sure"),
        ("It is positively great", "(none)"),
        ("", "(none)"),
        ("<think>negative?</think>positive", "positive"),
        ("\0positive", "positive"),
    ],
)
def test_the_label_of_an_answer(answer, label):
    found = verdict("classification", answer, "positive", options=LABELS)
    assert found.label == label
    assert found.scores == {"accuracy": float(label == "positive"), "ambiguous": float(label == "(ambiguous)")}


def test_a_whole_answer_must_be_the_label():
    options = {**LABELS, "whole": True}
    assert verdict("classification", "Positive.", "positive", options=options).label == "positive"
    assert verdict("classification", "It is positive.", "positive", options=options).label == "(none)"


def test_macro_f1_and_the_confusion_table():
    scorer = make_scorer("classification", LABELS, "metric")
    pairs = [("positive", "positive")] * 3 + [("positive", "negative"), ("negative", "negative"), ("negative", "what")]
    items = [item(expected) for expected, _ in pairs]
    verdicts = [scorer.score(one, Answer(answer)) for one, (_, answer) in zip(items, pairs, strict=True)]
    table = confusion_table([one.target[0] for one in items], verdicts)
    assert table == {"positive": {"positive": 3, "negative": 1}, "negative": {"negative": 1, "(none)": 1}}
    # positive: 2*3/(4+3); negative: 2*1/(2+2)
    assert scorer.summarize(items, verdicts) == pytest.approx({"macro_f1": (6 / 7 + 1 / 2) / 2})
    assert scorer.summarize([], []) == {}


def test_an_unknown_expected_label_is_refused():
    with pytest.raises(SftError, match="item 1: 'neutral' is not one of the labels positive, negative, not sure"):
        verdict("classification", "positive", "neutral", options=LABELS)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd"))))
def test_macro_f1_is_one_only_for_right_labels(pairs):
    table = confusion_table([expected for expected, _ in pairs], [Verdict({}, label=label) for _, label in pairs])
    assert 0 <= macro_f1(table) <= 1
    if pairs:
        assert (macro_f1(table) == 1) == all(expected == label for expected, label in pairs)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B.**", "B"),
        ("B. Paris", "B"),
        ("B) Paris", "B"),
        ("B: Paris is the capital.", "B"),
        ("B\nbecause", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is **(B)**.", "B"),
        ("Answer: B", "B"),
        (r"So \boxed{B}.", "B"),
        (r"So $\boxed{\text{B}}$.", "B"),
        ("The correct option is: B", "B"),
        ("Among them (B) fits", "B"),
        ("A cat is an animal.", "none"),
        ("I think so.", "none"),
        ("The answer is B or the answer is C.", "ambiguous"),
        ("(A) and (B)", "ambiguous"),
        ("A. Rome\nB. Paris", "ambiguous"),
        ("B. But the answer is C.", "ambiguous"),
        ("E", "none"),
        ("", "none"),
        ("<think>the answer is A</think>B", "B"),
        ("The answer is Brussels", "none"),
    ],
)
def test_the_letter_of_an_answer(answer, label):
    found = verdict("choice_letter", answer, "B")
    assert (found.label, found.scores) == (label, {"choice": float(label == "B")})


def test_more_letters():
    assert verdict("choice_letter", "The answer is J", "j", options={"letters": "ABCDEFGHIJ"}).label == "J"
    with pytest.raises(SftError, match="item 1: 'E' is not one of the letters ABCD"):
        verdict("choice_letter", "A", "E")
