"""GSM8K's two extractors, and numbers compared by value."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.errors import SftError
from sft_cli.scoring.metrics.gsm8k import last_number, strict_number
from tests.scoring.items import HOSTILE, score, verdict

TABLE = [
    # answer, strict, flexible
    ("#### 18", 18, 18),
    ("so it is\n####18", 18, 18),
    ("#### -1,234.", -1234, -1234),
    ("#### $-5", -5, -5),
    ("#### -$5.00", -5, -5),
    ("#### −5%", -5, -5),
    ("#### +7", 7, 7),
    ("#### 1,234,567.89 dollars", Decimal("1234567.89"), Decimal("1234567.89")),
    ("#### 5\n#### 6", 5, 6),
    ("#### 5\n\nQuestion: another one with 7 apples", 5, 7),
    ("#### five", None, None),
    ("The answer is 42.", None, 42),
    ("10-3", None, 3),
    ("10 - 3 = 7", None, 7),
    ("it falls to -3.", None, -3),
    ("x = -3", None, -3),
    ("(-4)", None, -4),
    ("3–4 people", None, 4),
    ("1, 2, 3", None, 3),
    ("12,34", None, 34),
    ("$70,000", None, 70000),
    ("50%", None, 50),
    ("72.00", None, 72),
    ("-.5", None, Decimal("-0.5")),
    ("none", None, None),
    ("", None, None),
    ("٣", None, None),
]


@pytest.mark.parametrize(("answer", "strict", "flexible"), TABLE)
def test_both_extractors(answer, strict, flexible):
    assert strict_number(answer) == strict
    assert last_number(answer) == flexible


def test_they_are_two_metrics():
    answer = "#### 18\nAnd another 20."
    assert score("gsm8k_strict", answer, "18") == 1
    assert score("gsm8k_flexible", answer, "18") == 0
    assert verdict("gsm8k_flexible", answer, "18").reason == "expected 18"
    assert verdict("gsm8k_strict", "It is 18.", "18").reason == "there is no #### followed by a number"


def test_a_target_may_be_a_worked_solution_and_must_have_a_number():
    assert score("gsm8k_strict", "#### 18", "2 * 9 = 18\n#### 18") == 1
    with pytest.raises(SftError, match="item 1: the expected answer 'eighteen' is no number"):
        score("gsm8k_strict", "#### 18", "eighteen")


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "  {} ", "\n{}.", "{:,}.00", "{}.0"]))
def test_a_number_is_found_in_each_way_of_writing_it(number, form):
    written = form.format(number)
    assert strict_number(f"so #### {written}") == number
    assert last_number(f"so it is {written}") == number


@pytest.mark.material
def test_every_solution_of_gsm8k_is_right(material_dir):
    text = (material_dir / "eval" / "gsm8k_test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 1319
    for row in rows:
        final = row["answer"].rpartition("#### ")[2]
        assert score("gsm8k_strict", row["answer"], final) == score("gsm8k_flexible", row["answer"], final) == 1
        assert score("gsm8k_strict", row["answer"], f"{final}1") == 0


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [("$70,000", "70000", 1), ("-3", "-3.0000001", 1), ("-3", "3", 0), ("3.001", "3", 0), (" 5. ", "5", 1)],
)
def test_plain_numbers(answer, target, expected):
    assert score("numeric", answer, target) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("1/2", "0.5", 1),
        (r"so \boxed{x^2+1}", "1+x^2", 1),
        (r"so \boxed{x^2-1}", "1+x^2", 0),
        (r"$\{1,2\}$", r"\{2,1\}", 1),
        (r"$\frac{1}{3}$", "0.333333", 1),
        ("I think 3, so \\boxed{4}", "4", 1),
        ("I think 3, so \\boxed{4}", "3", 0),
        ("the share is 50%", "50%", 1),
        ("x\0y = 3", "3", 1),
        ("no number here", "3", 0),
    ],
)
def test_values_are_compared_by_math_verify(answer, target, expected):
    assert score("numeric", answer, target) == expected


@pytest.mark.slow
def test_an_endless_power_is_bounded_and_the_next_answer_is_scored():
    found = verdict("numeric", "$9^{9^{9^{9}}}$", "3", options={"seconds": 1})
    assert found.scores == {"numeric": 0.0}
    assert found.reason in (
        "equal_math did not end within 1 s of processor time",
        "equal_math needed too much memory",
    )
    assert [score("numeric", answer, "3") for answer in HOSTILE] == [0] * len(HOSTILE)
    assert score("numeric", "$6/2$", "3") == 1
