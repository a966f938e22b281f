"""Conversion of rows of every format; the tables are the specification, the errors are verbatim."""

import pytest

from sft_cli.chat.encode_result import EncodeResult
from sft_cli.prepare.row_outcomes import row_outcome
from sft_cli.types import Conversation, Message, Row
from tests.data.format_helpers import USER, convert, row


def talk(format, values, columns=None, separator="\n\n"):
    """Return role and content of every message."""
    result = convert(row(values), format, columns or {}, separator)
    return [(message.role, message.content) for message in result.messages]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"instruction": "Q", "output": "A"}, [("user", "Q"), ("assistant", "A")], id="no-input"),
        pytest.param(
            {"instruction": "Q", "input": "I", "output": "A"}, [("user", "Q\n\nI"), ("assistant", "A")], id="input"
        ),
        pytest.param({"instruction": "Q", "input": "", "output": "A"}, [("user", "Q"), ("assistant", "A")], id="empty"),
        pytest.param(
            {"instruction": "Q", "input": " ", "output": "A"}, [("user", "Q"), ("assistant", "A")], id="blank"
        ),
        pytest.param(
            {"instruction": "Q", "input": None, "output": "A"}, [("user", "Q"), ("assistant", "A")], id="null"
        ),
        pytest.param({"instruction": "Q", "output": " A\n"}, [("user", "Q"), ("assistant", " A\n")], id="spaces-kept"),
        pytest.param(
            {"instruction": "Q", "output": "A", "system": "S", "history": [["q", "a"]], "other": 1},
            [("system", "S"), ("user", "q"), ("assistant", "a"), ("user", "Q"), ("assistant", "A")],
            id="system-and-history",
        ),
        pytest.param(
            {"instruction": "Q", "output": "A", "system": "", "history": []},
            [("user", "Q"), ("assistant", "A")],
            id="empty-system-column",
        ),
    ],
)
def test_alpaca(values, expected):
    assert talk("alpaca", values) == expected


def test_input_separator():
    assert talk("alpaca", {"instruction": "Q", "input": "I", "output": "A"}, separator=" | ")[0] == ("user", "Q | I")


def test_prompt_completion_and_text():
    assert talk("prompt_completion", {"prompt": "Q", "completion": "A"}) == [("user", "Q"), ("assistant", "A")]
    assert convert(row({"text": "T\n"}), "text", {}, "") == Conversation((), "rows.jsonl:7", "mine", text="T\n")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("system", "system"), ("developer", "system"),
        ("human", "user"), ("user", "user"), ("prompter", "user"),
        ("gpt", "assistant"), ("assistant", "assistant"), ("chatgpt", "assistant"), ("bing", "assistant"),
        ("bard", "assistant"), ("model", "assistant"),
        ("tool", "tool"), ("observation", "tool"), ("function", "tool"), ("function_response", "tool"),
        ("tool_response", "tool"), ("ipython", "tool"),
    ],
)  # fmt: skip
def test_roles(name, role):
    """Both spellings of a message are read under either column name."""
    for format, column in (("sharegpt", "conversations"), ("messages", "messages")):
        old = [{"from": name, "value": "x"}, {"from": "gpt", "value": "y"}]
        new = [{"role": name, "content": "x"}, {"role": "assistant", "content": "y"}]
        assert talk(format, {column: old}) == talk(format, {column: new}) == [(role, "x"), ("assistant", "y")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param({"content": "A"}, Message("assistant", "A"), id="text"),
        pytest.param(
            {"content": [{"type": "text", "text": "A"}, {"type": "text", "value": "\nB"}]},
            Message("assistant", "A\nB"),
            id="parts",
        ),
        pytest.param({"content": "A", "weight": 0}, Message("assistant", "A", 0.0), id="weight"),
        pytest.param({"content": "A", "loss_weight": 0.25}, Message("assistant", "A", 0.25), id="loss-weight"),
        pytest.param({"content": "A", "weight": None, "name": None}, Message("assistant", "A"), id="nulls-are-absent"),
        pytest.param(
            {"content": None, "tool_calls": [{"id": "1"}]},
            Message("assistant", "", extra={"tool_calls": [{"id": "1"}]}),
            id="only-calls",
        ),
        pytest.param(
            {"tool_calls": [{"id": "1"}]},
            Message("assistant", "", extra={"tool_calls": [{"id": "1"}]}),
            id="calls-without-content",
        ),
        pytest.param({"content": "A", "tool_calls": []}, Message("assistant", "A"), id="no-calls"),
        pytest.param(
            {"content": "A", "reasoning_content": "R", "name": "N"},
            Message("assistant", "A", extra={"reasoning_content": "R", "name": "N"}),
            id="template-keys",
        ),
    ],
)
def test_assistant_message(message, expected):
    values = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", **message}]}
    assert convert(row(values), "messages", {}, "").messages == (Message("user", "Q"), expected)


@pytest.mark.parametrize(
    "roles",
    [
        pytest.param(["assistant"], id="assistant-first"),
        pytest.param(["user", "user", "assistant"], id="two-questions"),
        pytest.param(["user", "assistant", "user"], id="question-last"),
        pytest.param(["user", "system", "assistant"], id="system-later"),
    ],
)
def test_any_order_of_roles_is_accepted(roles):
    assert talk("messages", {"messages": [{"role": role, "content": "x"} for role in roles]}) == [
        (r, "x") for r in roles
    ]


@pytest.mark.parametrize("role", ["system", "tool"])
def test_system_message_and_tool_result_can_be_empty(role):
    values = {"messages": [{"role": role, "content": ""}, {"role": "assistant", "content": "A"}]}
    assert talk("messages", values) == [(role, ""), ("assistant", "A")]


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([{"name": "f"}], ({"name": "f"},)),
        ('[{"name": "f"}]', ({"name": "f"},)),
        ([], None), ("[]", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_tools(tools, expected):
    values = {"messages": [{"role": "assistant", "content": "A"}], "tools": tools}
    assert convert(row(values), "messages", {}, "").tools == expected


def test_system_column_becomes_the_first_message():
    values = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"}
    assert talk("sharegpt", values) == [("system", "S"), ("user", "Q"), ("assistant", "A")]


def test_partial_column_map_keeps_the_other_names():
    values = {"instruction": "Q", "context": "I", "output": "A", "input": "not this one"}
    assert talk("alpaca", values, {"input": "context"}) == [("user", "Q\n\nI"), ("assistant", "A")]


@pytest.mark.parametrize(
    ("format", "values"),
    [
        ("alpaca", {"instruction": "Q", "output": ""}),
        ("alpaca", {"instruction": "Q", "output": "A", "history": [["a", ""]]}),
        ("prompt_completion", {"prompt": "Q", "completion": ""}),
        ("prompt_completion", {"prompt": [USER], "completion": [{"role": "assistant", "content": ""}]}),
        ("question_answer", {"question": "Q", "answer": ""}),
        ("question_answer", {"question": "Q", "answer": " \n"}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": ""}]}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": ""}]}),
        ("conversation", {"conversation": [{"human": "Q", "assistant": ""}]}),
    ],
)
def test_empty_answer_is_accepted_with_a_remark(format, values):
    """Some data sets contain such rows on purpose; preparation warns of them, and filters can drop them."""
    conversation = convert(Row(values, "a:1", "a"), format, {}, "\n\n")

    assert "" in [message.content.strip() for message in conversation.messages if message.role == "assistant"]
    assert row_outcome(0, conversation, EncodeResult()).remarks == "empty_answer"
