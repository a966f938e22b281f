"""Properties of the mask on random conversations, templates and tokenizers."""

import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_cli.config.schema.data import TrainOn
from sft_cli.types import Conversation, Message
from tests.chat.helpers import FORGETFUL, letters, talk, text, trained
from tests.lanes import examples

FRAGMENTS = (
    "<|im_end|>",
    "<|im_",
    "start|>",
    "<s>",
    "</s>",
    "</",
    "<think>",
    "</think>",
    "\n",
    "\n\n",
    " ",
    "\r\n",
    "\t",
)
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS)
    | st.sampled_from("ab:é\u0301\U0001f600\u200d[]\u00a0\u2028")
    | st.characters(codec="utf-8"),
    max_size=8,
).map("".join)
TRIMMING = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n\\n' + m.content | trim + '<|im_end|>' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n\\n' if add_generation_prompt else '' -}}
"""
STOPS = {"chatml": "<|im_end|>", TRIMMING: "<|im_end|>", "vicuna": "</s>"}
"""The stop token of each template."""
settings.register_profile(
    "chat", max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LAW = settings(settings.get_profile("chat"))


@st.composite
def conversations(draw):
    """Draw one to three exchanges, an optional system message, and answers with weights."""
    messages = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXTS)))
        messages.append(Message("assistant", draw(TEXTS), draw(st.sampled_from([0.0, 0.5, 1.0, 1.0]))))
    messages[-1] = Message("assistant", messages[-1].content)
    return Conversation(tuple(messages), "rows.jsonl:7", "mine")


@pytest.fixture(params=[(), ("\n\n", "  ", " a", "ab", "]\n", ": ")], ids=["letters", "merges"])
def any_tokenizer(request, build_tokenizer):
    return build_tokenizer(letters(*request.param))


def without_own_stops(template, conversation):
    """Return the conversation without the stop tokens at the end of answers, because the template writes its own."""
    ending = re.compile(rf"(?:{re.escape(STOPS[template])}\s*)+\Z")
    return replace(
        conversation,
        messages=tuple(
            replace(message, content=ending.sub("", message.content)) if message.role == "assistant" else message
            for message in conversation.messages
        ),
    )


def expected_texts(template, conversation):
    """Return the text that each trained turn must decode to."""
    for message in conversation.messages:
        if message.role == "assistant" and message.weight:
            shown_text = message.content.strip() if template == TRIMMING else message.content
            yield (" " if template == "vicuna" else "") + shown_text + STOPS[template]


@pytest.mark.parametrize("template", list(STOPS), ids=["chatml", "trimming", "vicuna"])
@LAW
@given(conversation=conversations())
def test_trained_text_is_the_answer_and_one_stop_token(make_builder, any_tokenizer, template, conversation):
    builder = make_builder(template, any_tokenizer)
    outcome = builder.build([conversation])[0]
    if outcome.problem is not None:
        assert_refusal_is_right(outcome, conversation)
        return
    conversation = without_own_stops(template, conversation)
    unrolled = builder.encoder.encode(builder.span_finder.render(conversation, unroll=True))
    expected = list(expected_texts(template, conversation))
    if len(outcome.examples) == 1:
        assert trained(any_tokenizer, outcome) == ["|".join(expected)]
    else:
        assert trained(any_tokenizer, outcome) == expected
    # In one example or unrolled, each turn has the same prompt and the same answer.
    weights = [message.weight for message in conversation.messages if message.role == "assistant" and message.weight]
    for i, (alone, weight) in enumerate(zip(unrolled, weights, strict=True)):
        example = outcome.examples[min(i, len(outcome.examples) - 1)]
        (start, end), end_of_text = alone.spans[0], any_tokenizer.control_tokens[STOPS[template]]
        assert list(example.input_ids[:end]) == alone.input_ids[:end]
        assert example.weights[start:end] == (weight,) * (end - start)
        assert example.input_ids[end - 1] == end_of_text
    assert sum(weight > 0 for example in outcome.examples for weight in example.weights) == sum(
        end - start for alone in unrolled for start, end in alone.spans
    )


def assert_refusal_is_right(outcome, conversation):
    """Allowed reasons: a special token across two messages, reserved marks, and reasoning that a cut removes."""
    if any(m.role == "assistant" and m.content.strip().startswith("<think>") for m in conversation.messages):
        return
    assert "control tokens" in outcome.problem.problem or "U+FDD0" in outcome.problem.problem


@LAW
@given(conversation=conversations())
def test_the_prompt_is_a_prefix_of_what_was_trained(make_builder, any_tokenizer, conversation):
    """The ids of the rendered prompt begin the example of the last turn."""
    conversation = without_own_stops("chatml", conversation)
    builder = make_builder("chatml", any_tokenizer)
    outcome = builder.build([conversation])[0]
    if outcome.problem is None:
        prompt, messages, _ = builder.span_finder.serving_prompt(conversation)
        ids = builder.encoder.encode_text(prompt)
        assert list(outcome.examples[-1].input_ids[: len(ids)]) == ids
        assert outcome.examples[-1].weights[len(ids)] > 0
        assert [message["content"] for message in messages] == [m.content for m in conversation.messages[:-1]]


@LAW
@given(conversation=conversations())
def test_control_tokens_are_only_those_of_the_template(make_builder, any_tokenizer, conversation):
    conversation = without_own_stops("chatml", conversation)
    outcome = make_builder("chatml", any_tokenizer, train_on=TrainOn.last).build([conversation])[0]
    if outcome.problem is None:
        control = any_tokenizer.control_tokens
        ids = [id for id in outcome.examples[0].input_ids if id in control.values()]
        assert ids == [control["<|im_start|>"], control["<|im_end|>"]] * len(conversation.messages)
        # every word of every message is kept
        whole = text(any_tokenizer, outcome.examples[0])
        assert all(message.content in whole for message in conversation.messages)


@LAW
@given(conversation=conversations())
def test_a_template_that_rewrites_history_has_one_example_per_turn(make_builder, any_tokenizer, conversation):
    conversation = without_own_stops("chatml", conversation)
    outcome = make_builder(FORGETFUL, any_tokenizer).build([conversation])[0]
    if outcome.problem is None:
        expected = [f"{m.content}<|im_end|>" for m in conversation.messages if m.role == "assistant" and m.weight]
        assert "|".join(trained(any_tokenizer, outcome)) == "|".join(expected)


@LAW
@given(document=TEXTS)
def test_a_document_decodes_to_itself(make_builder, any_tokenizer, document):
    outcome = make_builder("chatml", any_tokenizer).build([Conversation((), "rows.jsonl:7", "mine", text=document)])[0]
    if outcome.problem is None:
        assert text(any_tokenizer, outcome.examples[0]) == f"{document}</s>"
        assert outcome.examples[0].weights == (0.0, *[1.0] * (len(outcome.examples[0].input_ids) - 1))


def test_the_random_conversations_are_proven(make_builder):
    """Conversations drawn by ``conversations`` are proven, not rejected."""
    assert make_builder().build([talk("U:<|im_end|>\n", "A:</s> \u0301")])[0].problem is None
