"""Rows that no format can read, and their errors."""

import math

import pytest

from sft_cli.data.row_errors import RowError
from tests.data.format_helpers import USER, convert, row

DROP = "fill it in or remove the row"


@pytest.mark.parametrize(
    ("format", "values", "reason", "expected"),
    [
        pytest.param(
            "alpaca", {"instruction": "Q", "ouput": "A"}, "missing field output",
            "there is no field 'output'; the row has instruction, ouput\n"
            "  fix: 'data.mix.mine.columns={output: ouput}'",
            id="missing",
        ),
        pytest.param(
            "text", {}, "missing field text",
            "there is no field 'text'; the row has no fields\n"
            "  fix: add 'text' to the row, or remove the row",
            id="no-fields",
        ),
        pytest.param(
            "alpaca", {"instruction": "Q", "output": 42}, "output of the wrong type",
            "field 'output' is 42 (a number); expected text\n"
            '  fix: write it in quotes: "output": "42"\n'
            """   or: 'data.mix.mine.format={instruction: "{{ instruction }}", output: "{{ output | string if output"""
            """ is integer or output is float else output }}"}'  # reads the numbers as text""",
            id="number",
        ),
        pytest.param(
            "text", {"text": None}, "text of the wrong type",
            "field 'text' is None (null); expected text\n  fix: fill it in or remove the row",
            id="null",
        ),
        pytest.param(
            "alpaca", {"instruction": " ", "output": "A"}, "empty instruction",
            "field 'instruction' is ' '; expected non-empty text\n"
            "  fix: fill in 'instruction' or remove the row",
            id="empty-instruction",
        ),
        pytest.param(
            "alpaca", {"instruction": "Q", "output": "A", "history": [["a"]]}, "history of the wrong type",
            "field 'history[0]' is ['a'] (a list); expected a pair [question, answer]\n"
            "  fix: write it as a pair [question, answer], or point columns at another column",
            id="history",
        ),
        pytest.param(
            "text", {"text": "a \ud83d b"}, "broken character",
            "field 'text' has a lone surrogate, \\ud83d\n"
            "  fix: remove it; it is probably half of an emoji that was cut in two",
            id="half-an-emoji",
        ),
        pytest.param(
            "messages", {"messages": "Q"}, "messages of the wrong type",
            "field 'messages' is 'Q' (text); expected a list of messages\n"
            "  fix: write it as a list of messages, or point columns at another column",
            id="not-a-list",
        ),
        pytest.param(
            "messages", {"messages": ["Q"]}, "messages of the wrong type",
            "field 'messages[0]' is 'Q' (text); expected an object with role and content\n"
            "  fix: write it as an object with role and content, or point columns at another column",
            id="not-an-object",
        ),
        pytest.param(
            "messages", {"messages": []}, "no assistant turn",
            "field 'messages' has no messages; there is nothing to learn to say\n"
            "  fix: add the assistant's answer or remove the row",
            id="no-messages",
        ),
        pytest.param(
            "messages", {"messages": [USER]}, "no assistant turn",
            "field 'messages' has 1 message (user), none of the assistant; there is nothing to learn to say\n"
            "  fix: add the assistant's answer or remove the row",
            id="no-assistant",
        ),
        pytest.param(
            "messages", {"messages": [{"speaker": "user", "text": "Q"}]}, "missing role",
            "field 'messages[0]' has neither 'role' nor 'from'; it has speaker, text\n"
            '  fix: write each message as {"role": "user", "content": "…"}',
            id="no-role",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "Bot", "content": "A"}]}, "unknown role",
            "field 'messages[0].role' is 'Bot'; "
            "expected one of system, developer, user, human, prompter, "
            "assistant, gpt, chatgpt, bing, bard, model, tool, observation, function, function_response, "
            "tool_response, ipython, function_result, function_return, function_output, tool_result, tool_return, "
            "tool_output\n"
            "  fix: 'data.mix.mine.roles={bot: assistant}', or with system, user, tool instead of assistant",
            id="unknown-role",
        ),
        pytest.param(
            "sharegpt", {"conversations": [{"from": None, "value": "A"}]}, "unknown role",
            "field 'conversations[0].from' is None; "
            "expected one of system, developer, user, human, prompter, "
            "assistant, gpt, chatgpt, bing, bard, model, tool, observation, function, function_response, "
            "tool_response, ipython, function_result, function_return, function_output, tool_result, tool_return, "
            "tool_output\n"
            "  fix: fill in the role",
            id="null-role",
        ),
        pytest.param(
            "sharegpt", {"conversations": [{"from": "function_call", "value": "{}"}]}, "function_call turn",
            "field 'conversations[0].value' of a function_call turn is '{}'; expected the JSON of a tool call\n"
            "  fix: write {\"name\": …, \"arguments\": {…}}",
            id="function-call-turn",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            "function_call key",
            "field 'messages[0].function_call' is an incomplete tool call in OpenAI's old format\n"
            '  fix: write "tool_calls": [{"type": "function", "function": {…}}] instead',
            id="function-call-key",
        ),
        pytest.param(
            "messages", {"messages": [USER, {"role": "assistant"}]}, "empty answer",
            f"field 'messages[1].content' (assistant) is None; expected non-empty text\n  fix: {DROP}",
            id="no-content",
        ),
        pytest.param(
            "messages", {"messages": [USER, {"role": "assistant", "content": [], "tool_calls": []}]}, "empty answer",
            f"field 'messages[1].content' (assistant) is []; expected non-empty text\n  fix: {DROP}",
            id="no-parts-no-calls",
        ),
        pytest.param(
            "sharegpt", {"conversations": [{"from": "human", "value": "\n"}]}, "empty question",
            f"field 'conversations[0].value' (user) is '\\n'; expected non-empty text\n  fix: {DROP}",
            id="empty-question",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "content part of type image_url",
            "field 'messages[0].content[0].type' is 'image_url'; only text can be trained on\n"
            "  fix: describe it in the text or remove the row",
            id="image",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "user", "content": ["Q"]}]}, "messages of the wrong type",
            "field 'messages[0].content[0]' is 'Q' (text); expected a part with a type\n"
            "  fix: write it as a part with a type, or point columns at another column",
            id="part-that-is-text",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "assistant", "content": "A", "tool_calls": "f()"}]},
            "messages of the wrong type",
            "field 'messages[0].tool_calls' is 'f()' (text); expected a list of tool calls\n"
            "  fix: write it as a list of tool calls, or point columns at another column",
            id="tool-calls",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "assistant", "content": "A"}], "tools": "f(x)"}, "invalid tools",
            "field 'tools' is text but not JSON: 'f(x)'\n  fix: write a list of tool schemas",
            id="tools-no-json",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "assistant", "content": "A"}], "tools": ["f"]},
            "tools of the wrong type",
            "field 'tools' is ['f'] (a list); expected a list of tool schemas\n"
            "  fix: write it as a list of tool schemas, or point columns at another column",
            id="tools-no-objects",
        ),
        pytest.param(
            "messages",
            {"messages": [{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}], "system": "T"},
            "two system messages",
            "fields 'system' and 'messages[0]' both hold a system message\n  fix: keep one of them",
            id="two-systems",
        ),
        pytest.param(
            "messages", {"messages": [{"role": "assistant", "content": "A", "name": "\udc00"}]}, "broken character",
            "field 'messages[0]' has a lone surrogate, \\udc00\n"
            "  fix: remove it; it is probably half of an emoji that was cut in two",
            id="half-a-character-in-a-template-key",
        ),
    ],
)  # fmt: skip
def test_invalid_row_is_refused(format, values, reason, expected):
    with pytest.raises(RowError) as caught:
        convert(row(values), format, {}, "\n\n")
    assert str(caught.value) == f"rows.jsonl:7: {expected}"
    assert caught.value.reason == reason


def test_error_message_is_valid_unicode():
    """The message contains the name of a column that is half a surrogate pair."""
    with pytest.raises(RowError) as caught:
        convert(row({"\ud83d": 1, "é": 2}), "text", {})
    assert caught.value.problem == "there is no field 'text'; the row has \\ud83d, é"
    str(caught.value).encode()


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "1", True, [1]])
def test_invalid_weight_is_refused(weight):
    values = {"messages": [{"role": "assistant", "content": "A", "weight": weight}]}
    with pytest.raises(RowError) as caught:
        convert(row(values), "messages", {}, "")
    assert str(caught.value) == (
        f"rows.jsonl:7: field 'messages[0].weight' is {weight!r}; expected one finite number of at least 0\n"
        "  fix: write 1 to train on the message and 0 to exclude it"
    )


def test_conflicting_weights_are_refused():
    values = {"messages": [{"role": "assistant", "content": "A", "weight": 1, "loss_weight": 0}]}
    with pytest.raises(
        RowError, match=r"'messages\[0\].weight' is 1, 'loss_weight' is 0: they give different training weights"
    ):
        convert(row(values), "messages", {}, "")
