"""Questions from examples written by hand, and a table of equal and different answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.eval.exact_match import (
    count_truncated_answers,
    extract_questions,
    last_trained_span,
)
from sft_cli.scoring.normalize import is_exact_match, normalize_answer
from sft_cli.types import Example

STOP = 0


def by_character(ids) -> str:
    """Decode ids that are characters; the stop token is ``#``."""
    return "".join(chr(id) if id else "#" for id in ids)


def example(text: str, mask: str, weight: float = 1.0) -> Example:
    """``#`` in the text is the stop token; ``x`` in the mask is trained."""
    ids = tuple(ord(c) if c != "#" else STOP for c in text)
    return Example(ids, tuple(weight if c == "x" else 0.0 for c in mask), "rows.jsonl:1", "s")


@pytest.mark.parametrize(
    ("text", "mask", "prompt", "expected"),
    [
        pytest.param("U:hi.A:yo#", "-------xxx", "U:hi.A:", "yo", id="one-turn"),
        pytest.param("U:a.A:b#U:c.A:de#", "------xx------xxx", "U:a.A:b#U:c.A:", "de", id="last-of-two-turns"),
        pytest.param("U:a.A:b#U:c.A:de#", "------xx---------", "U:a.A:", "b", id="last-turn-without-loss"),
        pytest.param("U:a.A:#", "------x", "U:a.A:", "", id="empty-answer"),
        pytest.param("U:a.A:<think></think>b#", "------xxxxxxxxxxxxxxxxx", "U:a.A:", "<think></think>b", id="wrapper"),
        pytest.param("U:a.A:b", "------x", "U:a.A:", "b", id="no-stop-token"),
    ],
)
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_reference_is_the_last_trained_span(split_of, text, mask, prompt, expected, weight):
    [item] = extract_questions(split_of([example(text, mask, weight)]), by_character, [STOP])
    assert (item.prompt, item.expected) == (prompt, expected)
    assert by_character(item.prompt_ids) == prompt
    assert (item.where, item.source) == ("rows.jsonl:1", "s")


@pytest.mark.parametrize("mask", [pytest.param("-xxxx", id="all-trained"), pytest.param("-----", id="nothing-trained")])
def test_an_example_without_a_prompt_gives_no_question(split_of, mask):
    assert extract_questions(split_of([example("text#", mask)]), by_character, [STOP]) == []


def test_a_truncated_answer_is_no_reference(split_of):
    """An answer whose stop token ends at the limit is a reference, and so is a complete answer before the cut."""
    cut, whole, before = "U:hi.A:yoyo", "U:hi.A:yoy#", "U:a.A:b#U:c"
    rows = [example(cut, "-------xxxx"), example(whole, "-------xxxx"), example(before, "------xx---")]
    split = split_of(rows)
    assert [item.expected for item in extract_questions(split, by_character, [STOP])] == ["yoyo", "yoy", "b"]
    assert count_truncated_answers(split, [STOP]) == 0
    split.truncated_at = 11
    assert [item.expected for item in extract_questions(split, by_character, [STOP])] == ["yoy", "b"]
    assert count_truncated_answers(split, [STOP]) == 1


def test_the_limit_counts_questions(split_of):
    rows = [example("text#", "-xxxx")] + [example(f"U:{c}.A:{c}#", "------xx") for c in "abcd"]
    split = split_of(rows)
    assert [i.expected for i in extract_questions(split, by_character, [STOP], limit=2)] == ["a", "b"]
    assert [i.expected for i in extract_questions(split, by_character, [STOP], indices=[4, 0, 2])] == ["d", "b"]
    assert extract_questions(split, by_character, [STOP], indices=[]) == []


@pytest.mark.parametrize(
    ("weights", "span"),
    [
        ([], None),
        ([0, 0], None),
        ([0, 1], (1, 2)),
        ([1, 1], (0, 2)),
        ([0, 1, 0, 1, 1], (3, 5)),
        ([0, 1, 1, 0], (1, 3)),
        ([0, 0.5, 2], (1, 3)),
    ],
)
def test_last_span(weights, span):
    assert last_trained_span(np.array(weights, dtype=np.float32)) == span


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        pytest.param("Paris", "Paris", True, id="equal"),
        pytest.param("  paris.\n", "Paris", True, id="space-case-period"),
        pytest.param("New \n  York", "new york", True, id="inner-space"),
        pytest.param("Zürich", "Zu\u0308rich", True, id="composed"),
        pytest.param("STRASSE", "straße", True, id="case-folding"),
        pytest.param("Paris .", "Paris", True, id="space-before-the-period"),
        pytest.param("<think>\nhm: London\n</think>\n\nParis", "Paris", True, id="reasoning-removed-from-the-answer"),
        pytest.param("Paris", "<think>\n\n</think>\n\nParis.", True, id="wrapper-removed-from-the-reference"),
        pytest.param("<think>Paris", "Paris", False, id="reasoning-that-never-ended"),
        pytest.param("Paris, France", "Paris", False, id="longer-answer"),
        pytest.param("The Who", "who", False, id="articles-stay"),
        pytest.param("3.1", "31", False, id="inner-period-stays"),
        pytest.param("etc..", "etc", False, id="one-period-only"),
        pytest.param(".", "", False, id="a-single-period-is-an-answer"),
        pytest.param("", "", True, id="both-empty"),
        pytest.param("", "Paris", False, id="empty-answer-to-a-reference"),
    ],
)
def test_is_exact_match(answer, expected, same):
    assert is_exact_match(answer, expected) is same


@given(st.text())
def test_case_and_surrounding_space_never_matter(text):
    assert normalize_answer(f" \t{text.upper().lower()}\n") == normalize_answer(text.upper().lower())
    assert normalize_answer(f"{text}") == normalize_answer(f"<think>{text}</think>{text.rpartition('</think>')[2]}")
