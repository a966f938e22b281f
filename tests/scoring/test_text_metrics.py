"""Tables by hand: exact match, regular expressions, contained texts, JSON, citations and limits of length."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.errors import SftError
from sft_cli.scoring.metrics.citations import cited_numbers
from sft_cli.scoring.metrics.length_limits import Limit, count_sentences, limits_in_prompt
from tests.scoring.items import score, verdict


def test_exact_match_takes_the_best_of_several_targets():
    assert score("exact_match", "<think>Rome?</think> PARIS.", "Lyon", "Paris") == 1
    assert verdict("exact_match", "Rome", "Paris").reason == "not the expected answer"


@pytest.mark.parametrize(
    ("answer", "target", "options", "expected"),
    [
        ("This is INCORRECT", "correct", {}, 0),
        ("This is correct.", "Correct", {}, 1),
        ("This is correct.", "Correct", {"ignore_case": False}, 0),
        ("the  new\nyork times", "new york", {}, 1),
        ("New Yorkers", "new york", {}, 0),
        ("New Yorkers", "new york", {"words": False}, 1),
        ("costs $5 now", "$5", {}, 1),
        ("costs $50 now", "$5", {}, 0),
        ("C++ it is", "C++", {}, 1),
        ("<think>Paris</think>Rome", "Paris", {}, 0),
    ],
)
def test_contains(answer, target, options, expected):
    assert score("contains", answer, target, options=options) == expected


def test_contains_one_or_all():
    assert score("contains", "red and blue", "red", "green") == 1
    assert score("contains", "red and blue", "red", "green", options={"all": True}) == 0
    assert score("contains", "red and blue", "red", "blue", options={"all": True}) == 1


@pytest.mark.parametrize(
    ("answer", "targets", "options", "expected"),
    [
        ("the answer is B", ["b"], {"pattern": "answer is (.)"}, 1),
        ("the answer is B", ["c"], {"pattern": "answer is (.)"}, 0),
        ("the answer is B", [], {"pattern": "answer is"}, 1),
        ("The Answer", [], {"pattern": "answer"}, 0),
        ("The Answer", [], {"pattern": "answer", "ignore_case": True}, 1),
        ("2026-11-30", [], {"pattern": r"\d+-\d+-\d+", "whole": True}, 1),
        ("on 2026-11-30", [], {"pattern": r"\d+-\d+-\d+", "whole": True}, 0),
        ("a1", ["b.", "a."], {}, 1),
        ("a" * 50 + "!", [], {"pattern": "(a+)+$", "seconds": 0.1}, 0),
        ("still served", [], {"pattern": "served"}, 1),
        ("\0", [], {"pattern": "\0"}, 1),
    ],
)
def test_regex_and_a_catastrophic_one_is_bounded(answer, targets, options, expected):
    assert score("regex", answer, *targets, options=options) == expected


def test_a_pattern_of_an_item_that_is_none_is_refused():
    with pytest.raises(SftError, match=r"item 1: '\(' is not a regular expression"):
        score("regex", "a", "(")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"a": 1}', 1),
        ('  [1, "x"]\n', 1),
        ('```json\n{"a": 1}\n```', 1),
        ('Here:\n```json\n{"a": 1}\n```', 0),
        ('{"a": 1} and more', 0),
        ("{'a': 1}", 0),
        ('{"a": NaN}', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ('{"a": "\0"}', 0),
    ],
)
def test_json_validity(answer, expected):
    assert score("json_valid", answer) == expected


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}, "s": {"type": "string", "pattern": "^(a+)+$"}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("answer", "schema", "expected", "reason"),
    [
        ('{"age": 5}', SCHEMA, 1, ""),
        ('{"age": 5}', json.dumps(SCHEMA), 1, ""),
        ('{"age": -5}', SCHEMA, 0, "$.age: -5 is less than the minimum of 0"),
        ('{"name": 5}', SCHEMA, 0, "$: 'age' is a required property"),
        ("age: 5", SCHEMA, 0, "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            '{"a": 1}',
            {"$ref": "https://example.com/schema.json"},
            0,
            "the schema cannot be applied: _WrappedReferencingError",
        ),
        ("1", True, 1, ""),
    ],
)
def test_json_schema(answer, schema, expected, reason):
    found = verdict("json_schema", answer, schema=schema)
    assert (found.scores["json_schema"], found.reason) == (expected, reason)


@pytest.mark.slow
def test_a_pattern_of_a_schema_that_takes_forever_is_bounded():
    found = verdict("json_schema", json.dumps({"age": 1, "s": "a" * 60 + "!"}), schema=SCHEMA)
    assert found.reason == "find_schema_error did not end within 5 s of processor time"


@pytest.mark.parametrize("schema", [None, 5, "{", {"type": "no"}])
def test_an_item_without_a_schema_is_refused(schema):
    with pytest.raises(SftError, match="item 1: "):
        score("json_schema", "1", schema=schema)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Water boils [1]. It freezes [2, 3].", {1, 2, 3}),
        ("Both[1][2] agree [4-6].", {1, 2, 4, 5, 6}),
        ("see [link](http://x) and [1](http://y)", set()),
        ("`a[1]` and ```\nb[2]\n``` but [3]", {3}),
        ("It does [1].\n\n[1]: a book\n[2] another book", {1}),
        ("[] [x] [1.5] [-1]", set()),
        ("[1-999]", set(range(1, 1000))),
        ("[9-1]", set()),
    ],
)
def test_citation_marks(text, numbers):
    assert cited_numbers(text) == numbers


@pytest.mark.parametrize(
    ("answer", "supporting", "scores"),
    [
        ("a [1] b [2]", [1, 2], {"citations_exist": 1, "citation_precision": 1, "citation_recall": 1}),
        ("a [1] b [7]", [1, 2], {"citations_exist": 0.5, "citation_precision": 0.5, "citation_recall": 0.5}),
        ("nothing", [1, 2], {"citation_recall": 0}),
        ("nothing", [], {}),
        ("a [3]", [], {"citations_exist": 1, "citation_precision": 0}),
        ("a [3]", None, {"citations_exist": 1}),
    ],
)
def test_citation_shares(answer, supporting, scores):
    assert verdict("citations", answer, sources=["a", "b", "c"], supporting=supporting).scores == scores


@pytest.mark.parametrize("fields", [{}, {"sources": "abc"}, {"sources": ["a"], "supporting": [2]}])
def test_an_item_without_sources_is_refused(fields):
    with pytest.raises(SftError, match="item 1: "):
        score("citations", "a [1]", **fields)


@pytest.mark.parametrize(
    ("prompt", "limits"),
    [
        ("Answer in one sentence.", [Limit("sentence", 1, 1)]),
        ("Use at most 50 words.", [Limit("word", 0, 50)]),
        ("Write fewer than 1,000 words", [Limit("word", 0, 999)]),
        ("in 50 words or less", [Limit("word", 0, 50)]),
        (
            "at least 3 sentences and no more than two paragraphs",
            [Limit("sentence", 3, None), Limit("paragraph", 0, 2)],
        ),
        ("more than 10 words", [Limit("word", 11, None)]),
        ("exactly 20 words", [Limit("word", 20, 20)]),
        ("in a single sentence", [Limit("sentence", 1, 1)]),
        ("in two short paragraphs", [Limit("paragraph", 2, 2)]),
        ("minimum of 5 lines", [Limit("line", 5, None)]),
        ("in three words or more", [Limit("word", 3, None)]),
        ("the sentence has many words", []),
    ],
)
def test_limits_in_prompts(prompt, limits):
    assert limits_in_prompt(prompt) == limits


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One.", 1),
        ("One. Two! Three?", 3),
        ("No mark", 1),
        ("Dr. Smith met Mr. Lee at 3.5 km, e.g. there. Then left.", 2),
        ('He said "Stop." Then ran.', 2),
        ("1. First\n2. Second", 2),
        ("你好。再见！", 2),
        ("Wait... what?", 2),
        ("...", 0),
        ("", 0),
    ],
)
def test_sentences(text, sentences):
    assert count_sentences(text) == sentences


@pytest.mark.parametrize(
    ("answer", "question", "options", "expected", "reason"),
    [
        ("Short.", "Explain in one sentence.", {}, 1, ""),
        ("Short. Or not.", "Explain in one sentence.", {}, 0, "2 sentences, expected at most 1"),
        ("one two three", "Explain.", {"max_words": 2}, 0, "3 words, expected at most 2"),
        ("one two three", "In one sentence.", {"min_words": 3}, 1, ""),
        ("one two", "", {"min_words": 3}, 0, "2 words, expected at least 3"),
        ("a\n\nb", "", {"max_paragraphs": 1}, 0, "2 paragraphs, expected at most 1"),
    ],
)
def test_length(answer, question, options, expected, reason):
    found = verdict("length", answer, options=options, question=question)
    assert (found.scores, found.reason) == ({"length_kept": expected}, reason)


def test_an_item_without_a_limit_has_no_score():
    assert verdict("length", "anything", question="Explain.").scores == {}


@given(st.text(max_size=40), st.sampled_from([" ", "\n", "\t", "  \n"]))
def test_white_space_around_a_right_answer_changes_nothing(answer, space):
    expected = score("exact_match", answer, answer)
    assert expected == 1
    assert score("exact_match", f"{space}{answer}{space}", answer) == 1
