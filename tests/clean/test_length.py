"""Bounds on length: counts of words by hand, and the trained share of a row."""

import pytest

from sft_cli.clean import length
from sft_cli.config.schema.clean import LengthConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message
from tests.clean.helpers import chat, document, run_filter

CALL = {"function": {"name": "f", "arguments": {}}}
CALLING = Conversation((Message("user", "do it"), Message("assistant", "", extra={"tool_calls": [CALL]})), "a:1", "a")


@pytest.mark.parametrize(
    ("row", "config", "wanted"),
    [
        pytest.param(chat("a b", "c"), {}, None, id="within"),
        pytest.param(chat("a b", " \n"), {}, ("answer too short", "0 words, fewer than 1", 0), id="empty-answer"),
        pytest.param(chat("a b", ""), {"min_answer_words": 0, "max_answer_words": 9}, None, id="silence-allowed"),
        pytest.param(
            chat("a b", "c d"),
            {"min_answer_words": 3},
            ("answer too short", "2 words, fewer than 3", 2),
            id="short",
        ),
        pytest.param(
            chat("a b", "c"),
            {"min_answer_words": 2},
            ("answer too short", "1 word, fewer than 2", 1),
            id="one",
        ),
        pytest.param(
            chat("a b", "c d"),
            {"max_answer_words": 1},
            ("answer too long", "2 words, more than 1", 2),
            id="long",
        ),
        pytest.param(chat("a b", "c d"), {"max_answer_words": 2}, None, id="just-long-enough"),
        pytest.param(
            chat("a", "b"),
            {"min_prompt_words": 2},
            ("prompt too short", "1 word, fewer than 2", 1),
            id="prompt",
        ),
        pytest.param(
            chat("a", "b", "c d", "e"),
            {"max_prompt_words": 3},
            ("prompt too long", "4 words, more than 3", 4),
            id="all-before",
        ),
        pytest.param(
            chat("a b c", "d"),
            {"min_prompt_words": 3, "max_prompt_words": 3},
            None,
            id="prompt-just-right",
        ),
        pytest.param(chat("你好吗", "我很好。"), {"min_answer_words": 4}, None, id="chinese-characters-count"),
        pytest.param(chat("x" * 9, "y"), {"min_trained_share": 0.1}, None, id="a-tenth"),
        pytest.param(
            chat("x" * 9, "y"),
            {"min_trained_share": 0.11},
            ("trained share too small", "10.0%, below 11.0%", 0.1),
            id="share",
        ),
        pytest.param(
            chat("x", "yyy"),
            {"max_trained_share": 0.7},
            ("trained share too large", "75.0%, above 70.0%", 0.75),
            id="large",
        ),
        pytest.param(CALLING, {"min_answer_words": 5}, None, id="a-tool-call-is-an-answer"),
        pytest.param(document("a"), {"min_prompt_words": 9, "max_trained_share": 0.5}, None, id="documents-pass"),
    ],
)
def test_bounds(row, config, wanted):
    result, report = run_filter(length.find_length, [row], LengthConfig(**config))
    assert [(one.reason, one.detail, one.score) for one in result] == ([wanted] if wanted else [])
    assert report["reasons"] == ({wanted[0]: 1} if wanted else {})


def test_trained_share_counts_reasoning_and_tool_calls():
    answer = Message("assistant", "abc", extra={"reasoning_content": "de", "tool_calls": [1]})
    row = Conversation((Message("user", "x" * 8), answer), "a:1", "a")
    assert length.trained_share(row) == 8 / 16
    assert length.trained_share(chat("", "")) == 0.0


def test_report_counts_rows_without_a_decision():
    assert run_filter(length.find_length, [document("a"), chat("a", "b")], LengthConfig())[1] == {
        "reasons": {},
        "not_judged": 1,
    }


def test_bounds_that_no_row_can_meet_are_refused():
    with pytest.raises(SftError) as error:
        length.find_length(None, LengthConfig(min_answer_words=5, max_answer_words=4))  # pyright: ignore[reportArgumentType]
    assert str(error.value) == (
        "clean.length.min_answer_words: min_answer_words is 5, but max_answer_words is 4: every row would be dropped\n"
        "  fix: clean.length.max_answer_words=5, or remove clean.length.min_answer_words"
    )


def test_bounds_that_every_row_meets_are_refused():
    with pytest.raises(SftError) as caught:
        length.check_length(LengthConfig(min_answer_words=0))
    assert str(caught.value) == (
        "clean.length: no bound is set, so no row would be dropped\n"
        "  fix: set one, such as clean.length.min_answer_words=1, or remove length from clean.steps"
    )
