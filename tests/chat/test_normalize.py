"""System messages and reasoning before rendering, and rules that contradict themselves."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.chat.template.chat_template import RenderError
from sft_cli.chat.template.normalize import normalize_conversation
from sft_cli.config.schema.data import DataConfig, Thinking, TrainOn
from sft_cli.errors import SftError
from sft_cli.types import Message
from tests.chat.helpers import problem, talk, text, trained

CALLS = {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}


def contents(conversation, **rules):
    return [
        f"{message.role[0]}:{message.content}"
        for message in normalize_conversation(conversation, DataConfig(**rules)).messages
    ]


@pytest.mark.parametrize(
    ("turns", "rules", "expected"),
    [
        (["U:a", "A:b"], {}, ["u:a", "a:b"]),
        (["U:a", "A:b"], {"system": "Be brief."}, ["s:Be brief.", "u:a", "a:b"]),
        (["S:own", "U:a", "A:b"], {"system": "Be brief."}, ["s:own", "u:a", "a:b"]),
        (["S:", "U:a", "A:b"], {"system": "Be brief."}, ["s:", "u:a", "a:b"]),
        (["S:own", "U:a", "S:more", "A:b"], {"system": "x", "override_system": True}, ["s:x", "u:a", "a:b"]),
        (["S:own", "U:a", "A:b"], {"system": "", "override_system": True}, ["u:a", "a:b"]),
        (["U:a", "A:b"], {"system": "x", "override_system": True}, ["s:x", "u:a", "a:b"]),
    ],
)
def test_the_system_message(turns, rules, expected):
    assert contents(talk(*turns), **rules) == expected


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("<think>\nwhy\n</think>\n\nb", "b"),
        ("<think>why</think>b", "b"),
        ("<think></think>\n\n  indented", "  indented"),
        ("\n<think>a\n\nb</think> c", "c"),
        ("why\n</think>\n\nb", "b"),
        ("The tag </think> ends it", "The tag </think> ends it"),
        ("See <think>a</think>", "See <think>a</think>"),
        ("<think>a</think>b<think>c</think>d", "b<think>c</think>d"),
        ("no reasoning", "no reasoning"),
    ],
)
def test_a_reasoning_block_is_what_an_answer_begins_with(content, left):
    assert contents(talk("U:a", f"A:{content}"), thinking=Thinking.strip)[1] == f"a:{left}"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_under_a_key_is_stripped_too(key):
    with_reasoning = talk("U:a", Message("assistant", "b", 0.5, {key: "why", "name": "bot"}))
    assert normalize_conversation(with_reasoning, DataConfig(thinking=Thinking.strip)).messages[1] == Message(
        "assistant", "b", 0.5, {"name": "bot"}
    )


def test_last_keeps_the_reasoning_of_the_last_turn_with_its_tool_calls():
    """A turn starts after the question, so reasoning between a call and the answer belongs to the same turn."""
    think = "<think>\nwhy\n</think>\n\n"
    with_reasoning = talk(
        "U:1", f"A:{think}one", "U:2", Message("assistant", think, extra=CALLS), "T:{}", f"A:{think}two", "U:3"
    )
    assert contents(with_reasoning, thinking=Thinking.last) == [
        "u:1", "a:one", "u:2", f"a:{think}", "t:{}", f"a:{think}two", "u:3",
    ]  # fmt: skip
    assert contents(with_reasoning, thinking=Thinking.strip)[3:6] == ["a:", "t:{}", "a:two"]
    assert normalize_conversation(with_reasoning, DataConfig()) is with_reasoning


def test_reasoning_tags_in_a_user_message_are_kept():
    assert contents(talk("U:<think>a</think>b", "A:c"), thinking=Thinking.strip) == ["u:<think>a</think>b", "a:c"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("<think>why", "message 2 (assistant) opens <think> and never closes it: nothing is its answer"),
        ("<think>why</think>\n", "nothing but reasoning is in message 2 (assistant)"),
    ],
)
def test_an_answer_that_would_be_empty_is_rejected(make_builder, content, why):
    with pytest.raises(RenderError, match="message 2"):
        normalize_conversation(talk("U:a", f"A:{content}"), DataConfig(thinking=Thinking.strip))
    assert problem(make_builder(thinking=Thinking.strip).build([talk("U:a", f"A:{content}")])[0]) == why
    cut = "</think>" not in content
    assert (make_builder().build([talk("U:a", f"A:{content}")])[0].problem is not None) == cut


def test_normalized_messages_are_encoded(make_builder, tokenizer):
    outcome = make_builder(system="Sys", thinking=Thinking.strip).build([talk("U:a", "A:<think>x</think>b")])[0]
    assert trained(tokenizer, outcome) == ["b<|im_end|>"]
    assert text(tokenizer, outcome.examples[0]).startswith("<|im_start|>system\nSys<|im_end|>\n")


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "a"]), max_size=8).map("".join)


@given(
    turns=st.lists(st.tuples(st.sampled_from("SUAT"), PIECES), min_size=1, max_size=6),
    thinking=st.sampled_from(list(Thinking)),
    system=st.sampled_from([None, "", "x"]),
    override=st.booleans(),
)
def test_normalizing_twice_equals_once(turns, thinking, system, override):
    """Excluded: answers with two reasoning blocks, of which the second becomes the first when the first is stripped."""
    conversation = talk(*(f"{role}:{content}" for role, content in turns if content.count("</think>") < 2))
    rules = DataConfig(thinking=thinking, system=system, override_system=override)
    try:
        once = normalize_conversation(conversation, rules)
    except RenderError:
        return
    assert normalize_conversation(once, rules) == once
    assert [m for m in once.messages if m.role in "usertool"] == [
        m for m in conversation.messages if m.role in "usertool"
    ]
    assert replace(once, messages=()) == replace(conversation, messages=())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"override_system": True},
            "data.override_system=true: data.system is not set: there is nothing to put in place of the system messages"
            "\n  fix: data.system=TEXT (data.system='' for none), or remove data.override_system",
        ),
        (
            {"no_loss_patterns": ["ok", "a(b"]},
            "data.no_loss_patterns[1]: 'a(b' is not a regular expression: missing ), unterminated subpattern"
            " at position 1\n  fix: write it as Python's re does, quoted in YAML: '<\\|skip\\|>.*?<\\|/skip\\|>'",
        ),
        (
            {"no_loss_patterns": [""]},
            "data.no_loss_patterns[0]: an empty regular expression excludes nothing from the loss"
            "\n  fix: write it as Python's re does, quoted in YAML: '<\\|skip\\|>.*?<\\|/skip\\|>'",
        ),
        (
            {"train_on": TrainOn.all, "train_on_reasoning": False},
            "data.train_on_reasoning=false: data.train_on=all trains the whole text, so that this has no effect"
            "\n  fix: remove it, or set data.train_on=assistant",
        ),
        (
            {"train_on": TrainOn.all, "train_on_tool_results": True},
            "data.train_on_tool_results=true: data.train_on=all trains the whole text, so that this has no effect"
            "\n  fix: remove it, or set data.train_on=assistant",
        ),
    ],
)
def test_contradictory_rules_are_reported_before_any_row(make_builder, rules, message):
    with pytest.raises(SftError) as caught:
        make_builder(**rules)
    assert str(caught.value) == message


def test_all_errors_of_the_rules_are_reported_at_once(make_builder):
    with pytest.raises(SftError) as caught:
        make_builder(no_loss_patterns=["(", ")"], override_system=True)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines() if "fix:" not in line] == [
        "data.override_system=true", "data.no_loss_patterns[0]", "data.no_loss_patterns[1]",
    ]  # fmt: skip
