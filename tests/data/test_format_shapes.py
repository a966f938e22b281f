"""Common shapes of rows; the table gives the resulting messages."""

import json

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from tests.data.helpers import convert, messages, summarize

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
PLAIN = [("user", "Q"), ("assistant", "A")]


def call(name="f", arguments=None, **more):
    return {**more, "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def text(value, kind="text"):
    return {"type": kind, "text": value}


ANTHROPIC = [
    {"role": "user", "content": [text("Weather?")]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "R", "signature": "s"}, text("Let me look."),
                                      {"type": "tool_use", "id": "t1", "name": "w", "input": {"c": "Rome"}},
                                      {"type": "tool_use", "id": "t2", "name": "w", "input": {"c": "Oslo"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                                 {"type": "tool_result", "tool_use_id": "t2", "content": [text("rain")]},
                                 text("And?")]},
    {"role": "assistant", "content": "Sunny, rain."},
]  # fmt: skip
ITEMS = [
    {"type": "reasoning", "id": "r", "summary": [text("R", "summary_text")]},
    {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [text("Wait.", "output_text")],
    },
    {"type": "function_call", "id": "x", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "1"},
    {"type": "function_call_output", "call_id": "c2", "output": [text("2", "input_text")]},
    {"type": "message", "role": "assistant", "content": [text("A", "output_text")]},
]
ITEMS_SAID = [
    ("assistant", "Wait.", {"reasoning_content": "R", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]}),
    ("tool", "1", {"tool_call_id": "c1"}),
    ("tool", "2", {"tool_call_id": "c2"}),
    ("assistant", "A"),
]  # fmt: skip
HARMONY = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "channel": "analysis", "content": "R"},
    {"role": "assistant", "channel": "commentary", "recipient": "functions.f", "content": '{"x": 1}'},
    {"role": "tool", "name": "functions.f", "channel": "commentary", "recipient": "assistant", "content": "1"},
    {"role": "assistant", "channel": "analysis", "content": "S"},
    {"role": "assistant", "channel": "final", "content": "A"},
]
XLAM = {
    "id": 0,
    "query": "Q",
    "answers": json.dumps([{"name": "w", "arguments": {"c": "R"}}]),
    "tools": json.dumps([{"name": "w", "description": "d", "parameters": {
        "c": {"type": "str", "description": "city"}, "n": {"type": "int, optional", "default": 1},
        "l": {"type": "List[str]"}, "u": {"type": "Union[int, str]"}}}]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        pytest.param({"prompt": [USER], "completion": [ANSWER]}, "prompt_completion", PLAIN, id="trl"),
        pytest.param(
            {"prompt": [{"role": "system", "content": "S"}, USER, ANSWER, USER], "completion": [ANSWER]},
            "prompt_completion",
            [("system", "S"), ("user", "Q"), ("assistant", "A", 0.0), *PLAIN],
            id="trl-several-turns",
        ),
        pytest.param({"prompt": "Q", "completion": [ANSWER]}, "prompt_completion", PLAIN, id="trl-half"),
        pytest.param(
            {"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, "prompt_completion", PLAIN, id="trl-csv"
        ),
        pytest.param(
            {"prompt": "Q", "completion": json.dumps([ANSWER])},
            "prompt_completion",
            [("user", "Q"), ("assistant", json.dumps([ANSWER]))],
            id="an-answer-that-is-json",
        ),
        pytest.param({"question": [USER], "answer": [ANSWER]}, "question_answer", PLAIN, id="other-names"),
        pytest.param(
            {"system": [text("S")], "messages": ANTHROPIC},
            "messages",
            [
                ("system", "S"),
                ("user", "Weather?"),
                ("assistant", "Let me look.", {"reasoning_content": "R", "tool_calls": [
                    call("w", {"c": "Rome"}, id="t1"), call("w", {"c": "Oslo"}, id="t2")]}),
                ("tool", "sunny", {"tool_call_id": "t1"}),
                ("tool", "rain", {"tool_call_id": "t2"}),
                ("user", "And?"),
                ("assistant", "Sunny, rain."),
            ],
            id="anthropic",
        ),
        pytest.param(
            {"instructions": "S", "input": "Q", "output": ITEMS}, "responses",
            [("system", "S"), ("user", "Q"), *ITEMS_SAID],
            id="responses",
        ),
        pytest.param(
            {"input": [{"role": "user", "content": [text("Q", "input_text")]}], "output": [ANSWER]}, "responses", PLAIN,
            id="responses-parts",
        ),
        pytest.param({"input": [USER, ANSWER, USER], "output": "A"}, "responses",
                     [("user", "Q"), ("assistant", "A", 0.0), *PLAIN], id="responses-texts"),
        pytest.param({"messages": [USER, *ITEMS]}, "messages", [("user", "Q"), *ITEMS_SAID], id="items-as-messages"),
        pytest.param(
            {"messages": HARMONY},
            "messages",
            [
                ("user", "Q"),
                ("assistant", "", {"reasoning_content": "R", "tool_calls": [call("f", '{"x": 1}')]}),
                ("tool", "1", {"name": "functions.f"}),
                ("assistant", "A", {"reasoning_content": "S"}),
            ],
            id="harmony",
        ),
        pytest.param(
            XLAM, "xlam", [("user", "Q"), ("assistant", "", {"tool_calls": [call("w", {"c": "R"})]})], id="xlam"
        ),
        pytest.param({"id": 1, "system_prompt": "S", "question": "Q", "response": "A"}, "question_response",
                     [("system", "S"), *PLAIN], id="orca"),
        pytest.param(
            {"problem": "Q", "solution": "A", "answer": "5", "level": 1}, "problem_solution", PLAIN, id="math"
        ),
        pytest.param({"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Q"},
                                        {"from": "gpt", "value": "A"}]}, "sharegpt", [("assistant", "Hi"), *PLAIN],
                     id="gpt-first"),
        pytest.param(
            {"messages": [{"role": "user", "parts": [{"text": "Q"}]}, {"role": "model", "parts": [{"text": "A"}]}]},
            "messages", PLAIN, id="gemini",
        ),
        pytest.param({"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}]}, "messages",
                     [("user", "Q"), ("assistant", "No.")], id="refusal"),
    ],
)  # fmt: skip
def test_shapes(row, format, expected):
    assert make_converter(SourceConfig(), "mine", "\n\n", row).name == format
    assert summarize(convert(row)) == expected


def test_tools_of_anthropic_and_xlam():
    tool = {
        "name": "w",
        "description": "d",
        "input_schema": {"type": "object", "properties": {"c": {"type": "string"}}},
    }
    (result,) = convert({"messages": [USER, ANSWER], "tools": [tool]}).tools
    assert result == {
        "type": "function",
        "function": {"name": "w", "description": "d", "parameters": tool["input_schema"]},
    }
    (result,) = convert(XLAM).tools
    assert result["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "c": {"type": "string", "description": "city"}, "n": {"type": "integer", "default": 1},
            "l": {"type": "array"}, "u": {"type": "Union[int, str]"},
        },
        "required": ["c", "l", "u"],
    }  # fmt: skip


def test_unread_fields_of_shapes_are_noted():
    assert convert({"messages": ANTHROPIC}).not_read == ("messages[].content[].signature",)
    assert convert({"input": "Q", "output": ITEMS}).not_read == ("output[].id", "output[].status")
    encrypted = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    assert convert({"input": "Q", "output": [encrypted, ANSWER]}).not_read == ("output[].encrypted_content",)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(
            {"prompt": [USER, ANSWER], "completion": [ANSWER]},
            "field 'prompt' ends with a message of the assistant that 'completion' continues; only whole "
            "messages can be trained\n  fix: put the whole answer into 'completion'",
            id="a-prompt-that-begins-the-answer",
        ),
        pytest.param(
            {"prompt": [USER], "completion": [USER]},
            "field 'completion' has no message of the assistant; there is nothing to train on\n"
            "  fix: add the assistant's answer or remove the row",
            id="no-answer",
        ),
        pytest.param(
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, text("A")]},
                ]
            },
            "field 'messages[1].content[0].type' is 'redacted_thinking'; encrypted reasoning cannot be trained on\n"
            "  fix: write it as text",
            id="encrypted",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [text("Q"), {"type": "tool_result", "content": "x"}]}, ANSWER]},
            "field 'messages[0].content[1]' is a part of type tool_result after one of type text; "
            "templates show results "
            "of tools, then text\n  fix: put the parts into that order, or split the message in two",
            id="a-result-after-the-question",
        ),
        pytest.param(
            {"input": "Q", "output": [{"type": "web_search_call", "id": "w"}, ANSWER]},
            "field 'output[0].type' is 'web_search_call'; no chat template has a counterpart for such an item\n"
            "  fix: keep items of type message, reasoning, function_call, function_call_output",
            id="another-item",
        ),
        pytest.param(
            {**XLAM, "answers": "[]"},
            "field 'answers' has no call; there is nothing to train on\n  fix: add the answer or remove the row",
            id="no-call",
        ),
        pytest.param(
            {"system": "S", "system_prompt": "T", "question": "Q", "response": "A"},
            "fields 'system' and 'system_prompt' hold different system messages\n  fix: keep one of them",
            id="two-system-columns",
        ),
        pytest.param(
            {"messages": [USER, {"role": "assistant", "channel": "analysis", "content": "R"}]},
            "field 'messages': the analysis 'R' is followed by no answer\n  fix: write reasoning as "
            "reasoning_content and "
            "calls as tool_calls",
            id="analysis-alone",
        ),
        pytest.param(
            {"messages": [USER, {"role": "assistant", "channel": "commentary", "content": "C"}, ANSWER]},
            "field 'messages[1].channel' (assistant) is 'commentary'; chat templates have no commentary without a "
            "tool call\n  fix: write reasoning as reasoning_content and calls as tool_calls",
            id="commentary",
        ),
        pytest.param(
            {"messages": [USER, {"role": "assistant", "channel": "inner", "content": "C"}, ANSWER]},
            "field 'messages[1].channel' (assistant) is 'inner'; chat templates have no such channel or recipient\n"
            "  fix: write reasoning as reasoning_content and calls as tool_calls",
            id="channel",
        ),
        pytest.param(
            {"messages": [{"role": "user", "channel": 3, "content": "Q"}, ANSWER]},
            "field 'messages[0].channel' (user) is 3; a user message has no channel\n"
            "  fix: write reasoning as reasoning_content and calls as tool_calls",
            id="channel-of-a-user",
        ),
        pytest.param(
            {"messages": [USER, {"role": "assistant", "channel": "analysis", "content": "R", "weight": 0}, ANSWER]},
            "field 'messages': the analysis 'R' has another training weight than the message after it\n"
            "  fix: write reasoning as reasoning_content and calls as tool_calls",
            id="analysis-of-another-weight",
        ),
    ],
)
def test_invalid_rows_are_refused(row, expected):
    with pytest.raises(RowError) as caught:
        convert(row)
    assert str(caught.value) == f"rows.jsonl:7: {expected}"


def test_analysis_becomes_the_reasoning_of_the_answer():
    thought, answer = {"channel": "analysis", "content": "R", "weight": 0}, {"content": "A", "loss": False}
    result = messages(USER, {"role": "assistant", **thought}, {"role": "assistant", **answer})
    assert summarize(result) == [("user", "Q"), ("assistant", "A", 0.0, {"reasoning_content": "R"})]
