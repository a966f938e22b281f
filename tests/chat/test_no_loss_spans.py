"""Text without loss: tables by hand, and the property that excluding text changes only weights."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_chat_properties import TEXTS, TRIMMING
from test_spans import QWEN_LIKE

from sft_cli.config.schema.data import TrainOn
from sft_cli.types import Message
from tests.chat.helpers import problem, table, talk, text, trained
from tests.lanes import examples

THOUGHT = "<think>\nwhy\n</think>\n\nyes"
CALLS = {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"a": "b"}}}]}
CALLING = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content -}}
    {%- for c in m.tool_calls or [] -%}{{- c.function | tojson -}}{%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
CHANNELS = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {{- '[thinking]' + m.thinking + '[final]' if m.thinking else '' -}}
    {{- m.content + '<|im_end|>' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""


def test_reasoning_is_in_the_text_but_not_trained(make_builder, tokenizer):
    """The block with its tags; the white space after it and the answer are trained."""
    outcome = make_builder(train_on_reasoning=False).build([talk("U:a", f"A:{THOUGHT}")])[0]
    assert trained(tokenizer, outcome) == ["\n\nyes<|im_end|>"]
    assert text(tokenizer, outcome.examples[0]).endswith(f"{THOUGHT}<|im_end|>")
    assert trained(tokenizer, make_builder().build([talk("U:a", f"A:{THOUGHT}")])[0]) == [f"{THOUGHT}<|im_end|>"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>think</think>think", "think<|im_end|>"),
        ("<think></think>b", "b<|im_end|>"),
        ("<think>\n\n</think>\n\nb", "\n\nb<|im_end|>"),
        ("<think><|im_end|></s></think></s>", "</s><|im_end|>"),
        ("why\n</think>\n\nb", "\n\nb<|im_end|>"),
        ("no </think>, no block", "no </think>, no block<|im_end|>"),
    ],
)
def test_where_reasoning_ends(make_builder, tokenizer, answer, expected):
    assert trained(tokenizer, make_builder(train_on_reasoning=False).build([talk("U:a", f"A:{answer}")])[0]) == [
        expected
    ]


def test_reasoning_from_a_key_is_located_in_the_rendering(make_builder, tokenizer):
    """This holds even if it equals text of the template."""
    conversation = talk("U:a", Message("assistant", "final", extra={"thinking": "thinking"}))
    outcome = make_builder(CHANNELS, train_on_reasoning=False).build([conversation])[0]
    assert trained(tokenizer, outcome) == ["[thinking]|[final]final<|im_end|>"]


def test_a_template_that_shows_a_key_gets_the_block_under_it(make_builder, tokenizer):
    assert trained(tokenizer, make_builder(CHANNELS).build([talk("U:a", f"A:{THOUGHT}")])[0]) == [
        "[thinking]why[final]yes<|im_end|>"
    ]


def test_in_an_unrolled_conversation_each_turn_has_its_no_loss_ranges(make_builder, tokenizer):
    conversation = talk("U:1", "A:<think>a</think>x", "U:2", "A:<think>b</think>y")
    outcome = make_builder(QWEN_LIKE, train_on_reasoning=False).build([conversation])[0]
    assert trained(tokenizer, outcome) == ["x<|im_end|>", "y<|im_end|>"]


@pytest.mark.parametrize(
    ("patterns", "answer", "expected"),
    [
        ([r"<\|skip\|>.*?<\|/skip\|>"], "a <|skip|>b<|/skip|> c", "a | c<|im_end|>"),
        ([r"\[\d+\]"], "one[1] two[23].", "one| two|.<|im_end|>"),
        (["b", "bc"], "abcd", "a|d<|im_end|>"),
        (["b", "c"], "abcd", "a|d<|im_end|>"),
        (["x*"], "axxb", "a|b<|im_end|>"),
        (["nothing"], "abcd", "abcd<|im_end|>"),
        ([r"\s+$"], "ab \n", "ab|<|im_end|>"),
        (["end"], "im_end <|im_end|>.", "im_| <|im_||>.<|im_end|>"),
        ([r"(?s)^.*\n---\n"], "draft\n---\nfinal", "final<|im_end|>"),
    ],
)
def test_text_that_a_pattern_matches_carries_no_loss(make_builder, tokenizer, patterns, answer, expected):
    outcome = make_builder(no_loss_patterns=patterns).build([talk("U:ab[1]", f"A:{answer}")])[0]
    (example,) = outcome.examples
    weights = {weight for _, weight in table(tokenizer, example)}
    assert weights == {0.0, 1.0}
    assert text(tokenizer, example).endswith(f"{answer}<|im_end|>")
    assert trained(tokenizer, outcome) == [expected]


def test_trimmed_white_space_makes_no_difference(make_builder, tokenizer):
    rules = {"no_loss_patterns": [r"^\s*#.*\n", r"x\s*$"]}
    outcome = make_builder(TRIMMING, **rules).build([talk("U:a", "A:  # note\nb x ")])[0]
    assert trained(tokenizer, outcome) == ["b |<|im_end|>"]


def test_a_turn_without_any_loss_is_left_out(make_builder, tokenizer):
    builder = make_builder(no_loss_patterns=["(?s).*SECRET.*"])
    outcome = builder.build([talk("U:1", "A:SECRET", "U:2", "A:two")])[0]
    assert trained(tokenizer, outcome) == ["two<|im_end|>"]
    assert problem(builder.build([talk("U:1", "A:SECRET")])[0]) == (
        "no assistant turn carries loss (all their text is excluded from the loss)"
    )
    builder.template_check.check()  # the template check ignores no-loss ranges, which depend on the rows


def test_a_template_that_cuts_a_no_loss_part_is_rejected(make_builder):
    twice = CALLING.replace("+ m.content -", "+ m.content + (m.content if m.role == 'assistant' else '') -")
    assert problem(make_builder(twice, no_loss_patterns=["b"]).build([talk("U:1", "A:ab")])[0], "mine") == (
        "the template cuts, moves or repeats what data.no_loss_patterns or data.train_on_reasoning=false"
        " exclude from the loss"
    )


def test_turns_that_call_tools_may_carry_no_loss(make_builder, tokenizer):
    conversation = talk("U:1", Message("assistant", "", extra=CALLS), "T:{}", "A:done")
    assert trained(tokenizer, make_builder(CALLING, train_on_tool_calls=False).build([conversation])[0]) == [
        "done<|im_end|>"
    ]
    assert trained(tokenizer, make_builder(CALLING).build([conversation])[0]) == [
        '{"name": "look", "arguments": {"a": "b"}}<|im_end|>|done<|im_end|>'
    ]
    assert problem(
        make_builder(CALLING, train_on_tool_calls=False).build([talk(*conversation.messages[:2])])[0], "mine"
    ) == ("no assistant turn carries loss (all call tools, data.train_on_tool_calls is false)")


def test_tool_results_are_never_trained(make_builder, tokenizer):
    conversation = talk("U:1", Message("assistant", "", extra=CALLS), "T:result", "A:done")
    outcome = make_builder(CALLING, train_on=TrainOn.assistant).build([conversation])[0]
    assert "result" in text(tokenizer, outcome.examples[0])
    assert "result" not in trained(tokenizer, outcome)[0]


LAW = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("template", ["chatml", TRIMMING], ids=["chatml", "trimming"])
@LAW
@given(
    answers=st.lists(TEXTS, min_size=1, max_size=3),
    patterns=st.lists(st.sampled_from(["a+", "b.", r"\s+", "[<>]", "im_", "é"]), min_size=1, max_size=3),
    reasoning=st.booleans(),
)
def test_no_loss_ranges_change_only_weights(make_builder, tokenizer, template, answers, patterns, reasoning):
    """The ids are unchanged; the tokens that no range contains stay trained."""
    turns = [turn for answer in answers for turn in ("U:q", f"A:{answer}")]
    before = make_builder(template).build([talk(*turns)])[0]
    after = make_builder(template, no_loss_patterns=patterns, train_on_reasoning=reasoning).build([talk(*turns)])[0]
    if before.problem is not None or after.problem is not None:
        return
    ids, quiet = before.examples[-1], after.examples[-1]
    assert quiet.input_ids == ids.input_ids[: len(quiet.input_ids)]
    assert all(b in (0.0, a) for a, b in zip(ids.weights, quiet.weights, strict=False))
    assert quiet.weights[-1] == 1.0


def test_sanitize_false_lets_ordinary_rows_pass(make_builder, tokenizer):
    assert trained(tokenizer, make_builder(sanitize=False).build([talk("U:a", "A:b")])[0]) == ["b<|im_end|>"]
