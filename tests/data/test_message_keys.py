"""Every key of a message is read, refused, or reported as not read."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sft_cli.data.formats import loss_flags, message_keys
from sft_cli.data.row_errors import RowError
from tests.data.helpers import ASK, SAY, convert, messages, summarize


@pytest.mark.parametrize("key", [*message_keys.REASONING_KEYS, "Thought", "chainOfThought", "chain-of-thought"])
def test_reasoning_under_any_of_its_names(key):
    result = messages(ASK, {**SAY, key: "R"})
    assert summarize(result) == [("user", "Q"), ("assistant", "A", {"reasoning_content": "R"})]
    assert result.not_read == ()


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_empty_reasoning_is_ignored(empty):
    assert summarize(messages(ASK, {**SAY, "reasoning_content": empty})) == [("user", "Q"), ("assistant", "A")]


def test_equal_reasoning_keys_are_merged():
    result = messages(ASK, {**SAY, "reasoning": "R", "reasoning_content": "R\n", "thinking": None})
    assert result.messages[1].extra == {"reasoning_content": "R"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({**SAY, "reasoning": "R", "thought": "S"}, "field 'messages[1].thought' is 'S'; 'reasoning' holds different "
         "reasoning\n  fix: keep one of them"),
        ({**SAY, "thinking": ["R"]}, "field 'messages[1].thinking' is ['R']; reasoning must be text\n"
         "  fix: write it as one text"),
        ({**ASK, "thought": "R"}, "field 'messages[1].thought' is 'R'; a user message has no reasoning\n"
         "  fix: remove it"),
        ({**SAY, "hidden_thoughts": "R"}, "field 'messages[1].hidden_thoughts' is 'R'; it seems to be reasoning\n"
         "  fix: rename it reasoning_content, or remove it"),
        ({**SAY, "explanation": "R"}, "field 'messages[1].explanation' is 'R'; it seems to be reasoning\n"
         "  fix: rename it reasoning_content, or remove it"),
        ({**ASK, "image": "cat.jpg"}, "field 'messages[1].image' is 'cat.jpg'; only text can be trained on\n"
         "  fix: describe it in the content"),
        ({**ASK, "videos": ["a.mp4"]}, "field 'messages[1].videos' is ['a.mp4']; only text can be trained on\n"
         "  fix: describe it in the content"),
        ({**SAY, "audio": {"id": 1}}, "field 'messages[1].audio' is {'id': 1}; only text can be trained on\n"
         "  fix: describe it in the content"),
        ({**SAY, "label": False}, "field 'messages[1].label' is False; a message is trained by its weight, not by its "
         "label\n  fix: write weight: 1 or 0, or remove the key"),
        ({**SAY, "rejected": "B"}, "field 'messages[1].rejected' is 'B'; a message is trained by its weight, not by "
         "its label\n  fix: write weight: 1 or 0, or remove the key"),
        ({**SAY, "summary": "S"}, "field 'messages[1].summary' is 'S'; no template reads it in a message\n"
         "  fix: write it into the content, or as its own message"),
        ({**SAY, "tools": [{"name": "f"}]}, "field 'messages[1].tools' is [{'name': 'f'}]; no template reads it in a "
         "message\n  fix: move them to the row's own 'tools'"),
        ({**SAY, "text": "B"}, "field 'messages[1].text' is 'B'; the message has another content\n"
         "  fix: keep one of them"),
        ({**SAY, "refusal": "No."}, "field 'messages[1].refusal' is 'No.'; the message has another content\n"
         "  fix: keep one of them"),
        ({"role": "system", "text": "S"}, "field 'messages[1].text' is 'S'; the message has no content\n"
         "  fix: write it under 'content'"),
        ({"role": "tool", "result": "S"}, "field 'messages[1].content' (tool) is None; expected non-empty text\n"
         "  fix: write the text of result under 'content' or remove the row"),
        ({"role": "system"}, "field 'messages[1].content' (system) is None; expected non-empty text\n"
         "  fix: fill it in or remove the row"),
        ({**ASK, "tool_calls": [{"name": "f", "arguments": {}}]},
         "field 'messages[1]' (user) calls tools; only messages of the assistant do\n"
         "  fix: correct its role"),
        ({"role": "assistant", "output": "A", "tool_calls": [{"name": "f", "arguments": {}}]},
         "field 'messages[1].output' is 'A'; the message has no content\n"
         "  fix: write it under 'content'"),
    ],
)  # fmt: skip
def test_keys_that_are_refused(message, expected):
    with pytest.raises(RowError) as caught:
        messages(ASK, message, SAY)
    assert str(caught.value) == f"rows.jsonl:7: {expected}"


def test_unread_keys_are_noted():
    result = messages(
        {**ASK, "id": "m1", "timestamp": 3, "images": [], "audio": None, "has_image": False},
        {**SAY, "model": "m", "reasoning_tokens": 12, "thinking": True, "reasoning_effort": "high", "stop_reason": "x"},
    )
    assert summarize(result) == [("user", "Q"), ("assistant", "A")]
    assert result.not_read == (
        "messages[].has_image", "messages[].id", "messages[].model", "messages[].reasoning_effort",
        "messages[].reasoning_tokens", "messages[].stop_reason", "messages[].thinking", "messages[].timestamp",
    )  # fmt: skip


def test_speaker_names_reach_the_template_and_are_noted():
    result = messages(
        {**ASK, "name": "Ada"}, SAY, {"role": "tool", "content": "x", "name": "f", "tool_call_id": "c"}, SAY
    )
    assert [m.extra for m in result.messages] == [{"name": "Ada"}, {}, {"name": "f", "tool_call_id": "c"}, {}]
    assert result.not_read == ("messages[].name (user)",)


def test_unread_keys_have_the_names_of_the_file():
    row = {"chat": [{"from": "human", "value": "Q", "id": 1}, {"from": "gpt", "value": "A"}]}
    assert convert(row, "sharegpt", columns={"conversations": "chat"}).not_read == ("chat[].id",)


def test_keys_of_parts_and_calls():
    parts = [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}]
    call = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": {}, "parsed": 1}}
    result = messages(ASK, {"role": "assistant", "content": parts, "tool_calls": [call]})
    function = {"name": "f", "arguments": {}}
    assert result.messages[1].extra == {"tool_calls": [{"id": "c", "type": "function", "function": function}]}
    assert result.not_read == (
        "messages[].content[].cache_control", "messages[].tool_calls[].function.parsed",
        "messages[].tool_calls[].index",
    )  # fmt: skip


def test_keys_of_exchanges_and_trees():
    result = convert({"conversation": [{"human": "Q", "assistant": "A", "tool": "t", "thought": "R"}]})
    assert (result.not_read, result.messages[1].extra) == (("conversation[].tool",), {"reasoning_content": "R"})
    answer = {"text": "A", "role": "assistant", "model_name": "m", "rank": 0}
    result = convert({"message_tree_id": "t", "prompt": {"text": "Q", "role": "prompter", "x": 1, "replies": [answer]}})
    assert result.not_read == ("prompt.replies[].model_name", "prompt.x")


def test_arguments_under_the_keys_of_other_tools():
    for key in ("parameters", "args", "input"):
        result = messages(ASK, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", key: {"x": 1}}]})
        (call,) = result.messages[1].extra["tool_calls"]
        assert call == {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


OTHERS = [
    "id", "image", "Video", "label", "rejected", "summary", "tools", "note", "trainThis", "my_reasoning",
    "inner-thoughts", "tool_calls", "function_call", "type", "parts", "from",
]  # fmt: skip
KNOWN = [
    *message_keys.PASSED_KEYS,
    *message_keys.REASONING_KEYS,
    *message_keys.CHANNEL_KEYS,
    *message_keys.CONTENT_KEYS,
]
FLAGS = [*loss_flags.WEIGHT_KEYS, *loss_flags.TRAINED_KEYS, *loss_flags.MASKED_KEYS, *loss_flags.SPAN_KEYS]
letters = st.text(st.characters(codec="ascii", categories=["Ll", "Lu"]), min_size=1, max_size=6)
NAMES = st.sampled_from([*KNOWN, *FLAGS, *OTHERS]) | letters
VALUES = st.sampled_from([None, True, False, 0, 1, 0.5, "", "MARK", ["MARK"], {"k": "MARK"}, [], "true"])


@given(
    st.sampled_from(["user", "assistant", "system", "tool"]),
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.sampled_from([None, "text", "parts"]),
)
def test_no_key_is_lost(role, further, content):
    """A key changes the result, sets the weight, is noted as unread, or the row is refused."""
    further = {key: value for key, value in further.items() if key not in ("role", "content", "value")}
    assume(not ("parts" in further and content is None))
    message = {"role": role, **further}
    if content is not None:
        message["content"] = "C" if content == "text" else [{"type": "text", "text": "C", **further}]
    try:
        result = messages(message, SAY)
    except RowError:
        return
    written = json.dumps([[m.role, m.content, m.extra] for m in result.messages])
    weight = result.messages[0].weight if result.messages[0].role == role else None
    for key, value in further.items():
        if value is None or (isinstance(value, str | list | dict) and not value):
            continue
        noted = {f"messages[].{key}", f"messages[].content[].{key}", f"messages[].{key} ({role})"} & {*result.not_read}
        flagged = loss_flags.is_loss_flag(key)
        if flagged and not noted:
            assert value != "MARK", key
            assert not isinstance(value, list | dict), key
            truth = value in (True, "true") if isinstance(value, bool | str) else value
            masked = "mask" in key and "loss" not in key
            assert weight == (float(not truth) if masked or key in loss_flags.MASKED_KEYS else float(truth)), key
        elif not noted:
            seen = "MARK" in written if "MARK" in str(value) else json.dumps(value) in written
            assert seen or key in message_keys.CHANNEL_KEYS, key


def test_the_property_detects_a_lost_key(monkeypatch):
    """The property above fails if keys are dropped."""
    monkeypatch.setattr(
        "sft_cli.data.formats.messages.read_message_keys", lambda *_: message_keys.MessageKeys(None, {}, {})
    )
    with pytest.raises((AssertionError, ExceptionGroup)):
        test_no_key_is_lost()
