"""``train_on: contents``: user and assistant texts train with their stop tokens, the template's tags do not."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_chat_properties import TEXTS, TRIMMING
from test_no_loss_spans import CALLING, CALLS

from sft_cli.config.schema.data import TrainOn
from sft_cli.types import Message
from tests.chat.helpers import FORGETFUL, letters, problem, table, talk, text, trained
from tests.lanes import examples

CALL = Message("assistant", "", extra=CALLS)
BRACKETS = """
{%- for m in messages -%}
    {{- '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' -}}
{%- endfor -%}
"""
SPACED = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + ' \\n<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""


def contents(make_builder, template="chatml", *args, **rules):
    return make_builder(template, *args, train_on=TrainOn.contents, **rules)


def test_texts_and_stop_tokens_carry_loss_and_tags_do_not(make_builder, tokenizer):
    """The table is the specification."""
    (example,) = contents(make_builder).build([talk("S:s", "U:hi", "A:yo", "U:q", "A:a")])[0].examples
    assert table(tokenizer, example) == [
        ("<|im_start|>", 0), *((letter, 0) for letter in "system\ns"), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "user\n"), ("h", 1), ("i", 1), ("<|im_end|>", 1), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "assistant\n"), ("y", 1), ("o", 1), ("<|im_end|>", 1),
        ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "user\n"), ("q", 1), ("<|im_end|>", 1), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "assistant\n"), ("a", 1), ("<|im_end|>", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "question", "expected"),
    [
        ("chatml", "hi", "hi<|im_end|>|a<|im_end|>"),
        ("chatml", " hi\n", " hi\n<|im_end|>|a<|im_end|>"),
        ("chatml", "<|im_end|>", "<|im_end|><|im_end|>|a<|im_end|>"),
        ("chatml", "e\u0301 \U0001f600", "e\u0301 \U0001f600<|im_end|>|a<|im_end|>"),
        (TRIMMING, " hi \n", "hi<|im_end|>|a<|im_end|>"),
        (SPACED, "hi", "hi|<|im_end|>|a \n<|im_end|>"),
        (SPACED, "hi \n", "hi \n|<|im_end|>|a \n<|im_end|>"),
        ("alpaca", "hi", "hi|a</s>"),
        ("vicuna", "hi", "hi| a</s>"),
        (BRACKETS, "hi", "hi| a</s>"),
    ],
)
def test_the_stop_token_that_closes_a_question_is_trained(make_builder, tokenizer, template, question, expected):
    assert trained(tokenizer, contents(make_builder, template).build([talk(f"U:{question}", "A:a")])[0]) == [expected]


def test_a_token_that_the_template_shares_carries_no_loss(make_builder, build_tokenizer):
    """The ids are those of the whole text."""
    tokenizer = build_tokenizer(letters("\nh", "?\n"))
    conversation = talk("U:hi?", "A:a")
    spaced = SPACED.replace(" \\n<|im_end|>", "\\n<|im_end|>")
    outcome = contents(make_builder, spaced, tokenizer).build([conversation])[0]
    assert trained(tokenizer, outcome) == ["i|<|im_end|>|a\n<|im_end|>"]
    assert (
        outcome.examples[0].input_ids == make_builder(spaced, tokenizer).build([conversation])[0].examples[0].input_ids
    )


@pytest.mark.parametrize(
    ("turns", "rules", "expected"),
    [
        (["U:q", CALL, "T:1", "A:b"], {}, "q<|im_end|>|CALL<|im_end|>|b<|im_end|>"),
        (
            ["U:q", CALL, "T:1", "A:b"],
            {"train_on_tool_results": True},
            "q<|im_end|>|CALL<|im_end|>|1|b<|im_end|>",
        ),
        (["U:q", CALL, "T:1", "A:b"], {"train_on_tool_calls": False}, "q<|im_end|>|b<|im_end|>"),
        (["U:q", Message("assistant", "a", 0.0), "U:r", "A:b"], {}, "q<|im_end|>|r<|im_end|>|b<|im_end|>"),
        ([Message("user", "q", 0.0), "A:a", "U:r", "A:b"], {}, "a<|im_end|>|r<|im_end|>|b<|im_end|>"),
        (["U:", "A:a"], {}, "a<|im_end|>"),
        (["U:q", "U:r", "A:a"], {}, "q<|im_end|>|r<|im_end|>|a<|im_end|>"),
        (["U:aSECb", "A:cSECd"], {"no_loss_patterns": ["SEC"]}, "a|b<|im_end|>|c|d<|im_end|>"),
        (["U:SEC", "A:c"], {"no_loss_patterns": ["SEC"]}, "c<|im_end|>"),
        (["U:qSEC", "A:c"], {"no_loss_patterns": ["SEC"]}, "q|<|im_end|>|c<|im_end|>"),
        (["U:qSEC ", "A:c"], {"no_loss_patterns": ["SEC", "E"]}, "q| <|im_end|>|c<|im_end|>"),
        (["U:q", "A:<think>r</think>a"], {"train_on_reasoning": False}, "q<|im_end|>|a<|im_end|>"),
    ],
)
def test_which_user_texts_are_trained(make_builder, tokenizer, turns, rules, expected):
    template = CALLING if CALL in turns else "chatml"
    outcome = contents(make_builder, template, **rules).build([talk(*turns)])[0]
    assert outcome.problem is None, outcome.problem
    called = '{"name": "look", "arguments": {"a": "b"}}'
    assert "|".join(trained(tokenizer, outcome)) == expected.replace("CALL", called)


def test_in_an_unrolled_conversation_each_text_trains_once(make_builder, tokenizer):
    """It is trained in the first example that contains it; later ones contain what the template keeps of it."""
    outcome = contents(make_builder, FORGETFUL).build([talk("U:ask", "A:aa", "U:more", "A:bb", "U:last", "A:cc")])[0]
    assert trained(tokenizer, outcome) == [
        "ask<|im_end|>|aa<|im_end|>",
        "more<|im_end|>|bb<|im_end|>",
        "last<|im_end|>|cc<|im_end|>",
    ]
    assert "user\n(old)ask<" in text(tokenizer, outcome.examples[1])


def test_a_question_that_no_example_shows_is_rejected(make_builder):
    assert problem(contents(make_builder).build([talk("U:q", "A:a", "U:r")])[0]) == (
        "message 3 (user) comes after the last answer that carries loss: no example shows this text"
        " (data.train_on=contents)"
    )


@pytest.mark.parametrize("shown", ["m.content | upper", "m.content[:1]", "m.content | tojson(indent=1) ~ m.content"])
def test_a_template_that_changes_a_question_is_rejected(make_builder, shown):
    template = SPACED.replace("m.content", f"({shown} if m.role == 'user' else m.content)")
    found = problem(contents(make_builder, template).build([talk('U:qu"o', "A:a")])[0], "mine")
    assert found.startswith("the template") or "user" in found


def test_documents_and_weights_are_unchanged(make_builder, tokenizer):
    (example,) = contents(make_builder).build([talk("U:q", Message("assistant", "a", 0.5))])[0].examples
    assert sorted({weight for _, weight in table(tokenizer, example)}) == [0, 0.5, 1]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_only_answers_and_questions_are_trained(make_builder, tokenizer, exchanges):
    """The ids equal those of training only answers; exactly the questions and their stop tokens are trained too."""
    conversation = talk(*(turn for question, answer in exchanges for turn in (f"U:{question}", f"A:{answer}x")))
    outcome = make_builder().build([conversation])[0]
    assume(outcome.problem is None)
    (plain,) = outcome.examples
    (found,) = contents(make_builder).build([conversation])[0].examples
    assert found.input_ids == plain.input_ids
    more = [id for id, a, b in zip(found.input_ids, found.weights, plain.weights, strict=True) if a and not b]
    assert all(a >= b for a, b in zip(found.weights, plain.weights, strict=True))
    expected = "".join(f"{question}<|im_end|>" for question, _ in exchanges if question.strip())
    assert tokenizer.decode_batch([more])[0] == expected
