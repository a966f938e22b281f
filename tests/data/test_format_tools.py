"""Tool calls and reasoning in every supported spelling; the tables are the specification."""

import json

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.types import Message, Row

ASK = {"role": "user", "content": "Q"}


def convert(values, format="messages"):
    (result,) = make_converter(SourceConfig(format=format), "mine", "\n\n", ()).convert(
        Row(values, "rows.jsonl:7", "mine")
    )
    return result


def call(arguments, **more):
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def answered(message, format="messages"):
    """Return the conversation of a question and one assistant message."""
    return convert({"messages": [ASK, {"role": "assistant", **message}]}, format)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([call({"x": 1})], [call({"x": 1})], id="object"),
        pytest.param([call('{"x":  1}')], [call('{"x":  1}')], id="json-text-stays-as-written"),
        pytest.param([call({}, id="a")], [call({}, id="a")], id="id"),
        pytest.param([{"name": "f", "arguments": {}}], [call({})], id="bare"),
        pytest.param([{"name": "f", "arguments": "{}", "id": "a"}], [call("{}", id="a")], id="bare-with-id"),
        pytest.param(json.dumps([call({"x": 1})]), [call({"x": 1})], id="a-column-of-json-text"),
        pytest.param([{"id": "1"}], [{"id": "1"}], id="no-function-is-the-template's-to-refuse"),
        pytest.param([{"function": {"name": "f"}}], [{"function": {"name": "f"}}], id="no-arguments"),
    ],
)
def test_tool_calls(given, expected):
    result = answered({"tool_calls": given})
    assert result.messages[1] == Message("assistant", "", extra={"tool_calls": expected})
    assert result.tags == {}


@pytest.mark.parametrize("times", [1, 2, 3])
def test_arguments_encoded_twice_are_decoded_and_counted(times):
    arguments = once = json.dumps({"x": "é"}, ensure_ascii=False)
    for _ in range(times - 1):
        arguments = json.dumps(arguments)
    result = answered({"tool_calls": [call(arguments)]})
    assert result.messages[1].extra == {"tool_calls": [call(once)]}
    assert result.tags == ({"repaired": "tool arguments encoded twice"} if times > 1 else {})


@pytest.mark.parametrize(
    "arguments", ["", "f(x)", "[1]", "null", '"x"', "1", '"{"', [1], 5, True], ids=lambda value: json.dumps(value)
)
def test_arguments_that_are_not_an_object_are_refused(arguments):
    with pytest.raises(RowError) as caught:
        answered({"tool_calls": [call(arguments)]})
    assert str(caught.value) == (
        f"rows.jsonl:7: field 'messages[1].tool_calls[0].function.arguments' is {arguments!r}; "
        "expected an object or the JSON text of one\n  fix: write {} for a call without arguments"
    )
    assert caught.value.reason == "invalid tool arguments"


def test_old_key_of_a_call():
    result = answered({"content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}})
    assert result.messages[1] == Message("assistant", "", extra={"tool_calls": [call('{"x": 1}')]})


@pytest.mark.parametrize("value", ["f(x)", {"name": "f"}, {"arguments": "{}"}, {"name": 1, "arguments": {}}, [1]])
def test_invalid_old_call_is_refused(value):
    with pytest.raises(RowError) as caught:
        answered({"content": None, "function_call": value})
    assert caught.value.reason == "function_call key"


def test_two_spellings_of_a_call_are_refused():
    with pytest.raises(RowError) as caught:
        answered({"tool_calls": [call({})], "function_call": {"name": "f", "arguments": {}}})
    assert str(caught.value) == (
        "rows.jsonl:7: field 'messages[1].tool_calls' is a second spelling of the message's tool calls\n"
        "  fix: keep one of them"
    )


@pytest.mark.parametrize(
    ("value", "problem", "reason"),
    [
        ([{"function": "f"}], "field 'messages[1].tool_calls[0].function' is 'f' (text); "
         "expected an object with name and arguments", "messages of the wrong type"),
        ([{"function": {"name": " "}}], "field 'messages[1].tool_calls[0].function.name' is ' '; "
         "expected the name of a tool", "tool call without a name"),
        ([{"name": None, "arguments": {}}], "field 'messages[1].tool_calls[0].function.name' is None; "
         "expected the name of a tool", "tool call without a name"),
    ],
)  # fmt: skip
def test_invalid_calls_are_refused(value, problem, reason):
    with pytest.raises(RowError) as caught:
        answered({"tool_calls": value})
    assert (caught.value.problem, caught.value.reason) == (problem, reason)


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"name": "f", "arguments": {"x": 1}}', [call({"x": 1})]),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', [call('{"x": 1}')]),
        ('[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {"x": 1}}]', [call({}), call({"x": 1})]),
        ({"name": "f", "arguments": {}}, [call({})]),
        ('{"type": "function", "function": {"name": "f", "arguments": {}}}', [call({})]),
    ],
)
def test_turn_that_is_a_call(role, value, expected):
    turns = [{"from": "human", "value": "Q"}, {"from": role, "value": value}, {"from": "observation", "value": "R"}]
    result = convert({"conversations": [*turns, {"from": "gpt", "value": "A"}]}, "sharegpt")
    assert result.messages == (
        Message("user", "Q"),
        Message("assistant", "", extra={"tool_calls": expected}),
        Message("tool", "R"),
        Message("assistant", "A"),
    )


@pytest.mark.parametrize("value", ["", "{}", "[]", "f(x)", "null", "[1]", '{"name": "f"}', '{"function": "f"}', None])
def test_invalid_call_turn_is_refused(value):
    with pytest.raises(RowError) as caught:
        convert({"conversations": [{"from": "function_call", "value": value}]}, "sharegpt")
    assert str(caught.value) == (
        f"rows.jsonl:7: field 'conversations[0].value' of a function_call turn is {value!r}; "
        "expected the JSON of a tool call\n"
        '  fix: write {"name": …, "arguments": {…}}'
    )


def test_adjacent_calls_are_merged_into_one_message():
    one = {"from": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'}
    two = {"from": "tool_call", "value": '{"name": "f", "arguments": "\\"{}\\""}'}
    result = convert({"conversations": [{"from": "human", "value": "Q"}, one, two]}, "sharegpt")
    assert result.messages[1:] == (Message("assistant", "", extra={"tool_calls": [call({"x": 1}), call("{}")]}),)
    assert result.tags == {"repaired": "tool arguments encoded twice"}


@pytest.mark.parametrize("between", [{"from": "observation", "value": "R"}, {"from": "gpt", "value": "A"}])
def test_calls_with_a_message_between_them_are_not_merged(between):
    one = {"from": "tool_call", "value": '{"name": "f", "arguments": {}}'}
    assert len(convert({"conversations": [one, between, one]}, "sharegpt").messages) == 3


def test_calls_of_different_weights_are_not_merged():
    one = {"from": "tool_call", "value": '{"name": "f", "arguments": {}}'}
    result = convert({"conversations": [{**one, "weight": 0}, one]}, "sharegpt")
    assert [message.weight for message in result.messages] == [0, 1]


BARE = {"name": "f", "description": "d", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": BARE}


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [WRAPPED]},
        {"tools": [BARE]},
        {"tools": [{"type": "function", **BARE}]},
        {"tools": json.dumps([BARE])},
        {"functions": [BARE]},
        {"functions": [BARE], "tools": None},
        {"functions": [BARE], "tools": "[]"},
    ],
)
def test_tool_schemas_have_the_form_of_a_request(columns):
    assert convert({"messages": [{"role": "assistant", "content": "A"}], **columns}).tools == (WRAPPED,)


def test_tools_and_functions():
    with pytest.raises(RowError, match="fields 'tools' and 'functions' both hold tool schemas"):
        convert({"messages": [{"role": "assistant", "content": "A"}], "tools": [BARE], "functions": [BARE]})


def part(kind, value, key="value"):
    return {"type": kind, key: value}


CALL = '{"name": "f", "arguments": {}}'


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part("reasoning", "R"), part("text", "A")], Message("assistant", "A", extra={"reasoning_content": "R"})),
        (
            [part("reasoning", "R", "reasoning"), part("reasoning", "S", "text"), part("tool_call", CALL)],
            Message("assistant", "", extra={"reasoning_content": "RS", "tool_calls": [call({})]}),
        ),
        (
            [part("text", "A"), part("tool_call", CALL), part("tool_call", f"[{CALL}]")],
            Message("assistant", "A", extra={"tool_calls": [call({}), call({})]}),
        ),
        (
            [part("tool_call", {"name": "f", "arguments": {}})],
            Message("assistant", "", extra={"tool_calls": [call({})]}),
        ),
    ],
)
def test_content_parts(parts, expected):
    assert answered({"content": parts}).messages[1] == expected


def test_weight_of_a_message_of_parts():
    result = answered({"content": [part("text", "A")], "loss_weight": 0.5})
    assert result.messages[1].weight == 0.5


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            {"role": "assistant", "content": [part("text", "A"), part("reasoning", "R")]},
            "field 'messages[0].content[1]' is a part of type reasoning after one of type text; "
            "templates show reasoning, then text, then tool calls\n"
            "  fix: put the parts into that order, or split the message in two",
            id="order",
        ),
        pytest.param(
            {"role": "user", "content": [part("reasoning", "R")]},
            "field 'messages[0].content[0].type' is 'reasoning'; a user message may have only parts of type text\n"
            "  fix: write it as text",
            id="a-user-who-reasons",
        ),
        pytest.param(
            {"role": "assistant", "content": [part("tool_call", CALL)], "tool_calls": [call({})]},
            "field 'messages[0].tool_calls' is a second spelling of the message's tool calls\n  fix: keep one of them",
            id="calls-twice",
        ),
        pytest.param(
            {"role": "assistant", "content": [part("tool_call", "f()")]},
            "field 'messages[0].content[0].value' of a tool_call turn is 'f()'; expected the JSON of a tool call\n"
            '  fix: write {"name": …, "arguments": {…}}',
            id="no-call",
        ),
        pytest.param(
            {"role": "assistant", "content": [part("reasoning", "R")]},
            "field 'messages[0].content' (assistant) is [{'type': 'reasoning', 'value': 'R'}]; "
            "expected non-empty text\n"
            "  fix: fill it in or remove the row",
            id="reasoning-alone",
        ),
    ],
)
def test_invalid_parts_are_refused(message, expected):
    with pytest.raises(RowError) as caught:
        convert({"messages": [message]})
    assert str(caught.value) == f"rows.jsonl:7: {expected}"


def test_messages_in_a_csv_file_are_read_as_json():
    turns = [ASK, {"role": "assistant", "content": "A"}]
    assert convert({"messages": json.dumps(turns)}) == convert({"messages": turns})
