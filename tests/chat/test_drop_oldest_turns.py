"""Properties of conversations that are too long: as few whole turns as possible are dropped, no answer is cut."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_cli.config.schema.data import Overflow
from sft_cli.types import Conversation, Message
from tests.chat.helpers import FORGETFUL, trained
from tests.lanes import examples

TEXTS = st.text(alphabet="ab é", min_size=1, max_size=30).filter(lambda text: text.strip())
TEMPLATES = pytest.mark.parametrize("template", ["chatml", FORGETFUL], ids=["joined", "unrolled"])
LAW = settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.integers(20, 400)


@st.composite
def conversations(draw):
    """Draw up to six questions, each with one answer, or with two around a tool result; some carry no loss."""
    messages = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 6))):
        messages.append(Message("user", draw(TEXTS)))
        for role in draw(st.sampled_from([("assistant",), ("assistant", "tool", "assistant")])):
            messages.append(Message(role, draw(TEXTS), draw(st.sampled_from([0.0, 1.0])) if role == "assistant" else 1))
    messages[-1] = replace(messages[-1], weight=1.0)
    return Conversation(tuple(messages), "rows.jsonl:7", "mine")


def from_each_question(conversation):
    """Return the conversation, and the conversation from its second question on, its third, …"""
    head = 1 if conversation.messages[0].role == "system" else 0
    questions = [i for i, message in enumerate(conversation.messages) if message.role == "user"]
    for i in questions:
        yield i - head, replace(conversation, messages=conversation.messages[:head] + conversation.messages[i:])


@TEMPLATES
@LAW
@given(conversation=conversations(), max_length=LENGTHS)
def test_as_few_turns_as_possible_are_dropped(make_builder, template, conversation, max_length):
    """Trying each cut in order gives the same result."""
    shortening = make_builder(template, max_length=max_length, overflow=Overflow.drop_oldest_turns)
    strict = make_builder(template, max_length=max_length, overflow=Overflow.drop)
    outcome = shortening.build([conversation])[0]
    for dropped, shorter in from_each_question(conversation):
        expected = strict.build([shorter])[0]
        if expected.problem is None:
            assert outcome == replace(expected, dropped_messages=dropped)
            return
    assert outcome.too_long
    assert (outcome.examples, outcome.dropped_messages) == ((), 0)


@TEMPLATES
@LAW
@given(conversation=conversations(), max_length=LENGTHS)
def test_remaining_answers_are_complete_and_the_last_ones(make_builder, tokenizer, template, conversation, max_length):
    outcome = make_builder(template, max_length=max_length, overflow=Overflow.drop_oldest_turns).build([conversation])[
        0
    ]
    if outcome.problem is not None:
        return
    assert max(len(example.input_ids) for example in outcome.examples) <= max_length
    answers = [f"{m.content}<|im_end|>" for m in conversation.messages if m.role == "assistant" and m.weight]
    runs = [example.replace("<|im_end|>|", "<|im_end|>\0") for example in trained(tokenizer, outcome)]
    trained_answers = [answer for example in runs for answer in example.split("\0")]
    assert trained_answers
    assert trained_answers == answers[-len(trained_answers) :]
    if outcome.dropped_messages == 0:
        assert len(trained_answers) == len(answers)
    if conversation.messages[0].role == "system" and template == "chatml":
        first_text = tokenizer.decode_batch([outcome.examples[0].input_ids])[0]
        assert first_text.startswith(f"<|im_start|>system\n{conversation.messages[0].content}<|im_end|>\n")


@TEMPLATES
@pytest.mark.parametrize("overflow", [Overflow.error, Overflow.drop], ids=["error", "drop"])
@LAW
@given(conversation=conversations(), slack=st.integers(-2, 2))
def test_a_row_is_rejected_if_and_only_if_it_is_longer(make_builder, template, overflow, conversation, slack):
    free = make_builder(template, max_length=100_000).build([conversation])[0]
    max_length = max(len(example.input_ids) for example in free.examples) + slack
    outcome = make_builder(template, max_length=max_length, overflow=overflow).build([conversation])[0]
    assert outcome.too_long == (slack < 0)
    assert outcome.examples == (() if outcome.too_long else free.examples)
