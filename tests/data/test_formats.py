"""Rows of every format to conversations; the tables are the specification, the errors are verbatim."""

import math

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.detect import detect_format, resolve_format
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, Row


def row(values):
    return Row(values=values, where="rows.jsonl:7", source="mine")


def convert(found, format, columns, separator="\n\n"):
    """The one conversation of a row."""
    (conversation,) = make_converter(SourceConfig(format=format, columns=columns), "mine", separator, ()).convert(found)
    return conversation


def talk(format, values, columns=None, separator="\n\n"):
    """Role and content of every message."""
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
    """Both spellings of a message, under either column."""
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
def test_an_assistant_message(message, expected):
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
def test_orders_that_templates_decide(roles):
    assert talk("messages", {"messages": [{"role": role, "content": "x"} for role in roles]}) == [
        (r, "x") for r in roles
    ]


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_system_message_and_a_tool_result_may_be_empty(role):
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


def test_a_partial_map_keeps_the_other_names():
    values = {"instruction": "Q", "context": "I", "output": "A", "input": "not this one"}
    assert talk("alpaca", values, {"input": "context"}) == [("user", "Q\n\nI"), ("assistant", "A")]


USER = {"role": "user", "content": "Q"}
DROP = "fill it in or remove the row; data.on_bad_row=drop leaves such rows out"


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
            "  fix: give every row 'text', or leave such rows out with data.on_bad_row=drop",
            id="no-fields",
        ),
        pytest.param(
            "alpaca", {"instruction": "Q", "output": 42}, "output of the wrong type",
            "field 'output' is 42 (a number); expected text\n"
            "  fix: write it as text, or point columns at another column",
            id="number",
        ),
        pytest.param(
            "text", {"text": None}, "text of the wrong type",
            "field 'text' is None (null); expected text\n  fix: write it as text, or point columns at another column",
            id="null",
        ),
        pytest.param(
            "alpaca", {"instruction": " ", "output": "A"}, "empty instruction",
            "field 'instruction' is ' '; expected non-empty text\n"
            "  fix: fill in the instruction or remove the row; data.on_bad_row=drop leaves such rows out",
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
            "  fix: write {\"name\": …, \"arguments\": {…}}, or leave such rows out with data.on_bad_row=drop",
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
            "  fix: write it as text, or leave such rows out with data.on_bad_row=drop",
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
def test_a_row_that_cannot_be_used(format, values, reason, expected):
    with pytest.raises(RowError) as caught:
        convert(row(values), format, {}, "\n\n")
    assert str(caught.value) == f"rows.jsonl:7: {expected}"
    assert caught.value.reason == reason


def test_an_error_can_always_be_written():
    """A column whose name is half a character stands in the message."""
    with pytest.raises(RowError) as caught:
        convert(row({"\ud83d": 1, "é": 2}), "text", {})
    assert caught.value.problem == "there is no field 'text'; the row has \\ud83d, é"
    str(caught.value).encode()


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "1", True, [1]])
def test_a_weight_that_is_none(weight):
    values = {"messages": [{"role": "assistant", "content": "A", "weight": weight}]}
    with pytest.raises(RowError) as caught:
        convert(row(values), "messages", {}, "")
    assert str(caught.value) == (
        f"rows.jsonl:7: field 'messages[0].weight' is {weight!r}; expected one finite number of at least 0\n"
        "  fix: write 1 to train on the message and 0 to exclude it"
    )


def test_two_weights():
    values = {"messages": [{"role": "assistant", "content": "A", "weight": 1, "loss_weight": 0}]}
    with pytest.raises(
        RowError, match=r"'messages\[0\].weight' is 1, 'loss_weight' is 0: they give different training weights"
    ):
        convert(row(values), "messages", {}, "")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param(
            {"output": "anwser"},
            "rows.jsonl:7: there is no field 'anwser'; the row has question, answer\n"
            "  fix: 'data.mix.mine.columns={instruction: question, output: answer}'",
            id="near",
        ),
        pytest.param(
            {"instruction": "question", "output": "answer", "input": "context"},
            "rows.jsonl:7: there is no field 'context'; the row has question, answer\n"
            "  fix: give every row 'context', or leave data.mix.mine.columns.input out",
            id="optional-but-mapped",
        ),
        pytest.param(
            {"instruction": "question", "outptu": "answer"},
            "data.mix.mine.columns: unknown name 'outptu'; "
            "the format reads instruction, output, input, system, system_prompt, history, tools\n  fix: did "
            "you mean output?",
            id="unknown-name",
        ),
        pytest.param(
            {"answer": "output"},
            "data.mix.mine.columns: unknown name 'answer'; "
            "the format reads instruction, output, input, system, system_prompt, history, tools\n"
            "  fix: write the format's name first, then the name in the file",
            id="the-wrong-way-round",
        ),
    ],
)
def test_maps_that_do_not_fit(columns, expected):
    columns = {"instruction": "question", **columns} if "output" in columns else columns
    with pytest.raises(SftError) as caught:
        convert(row({"question": "Q", "answer": "A"}), "alpaca", columns, "")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("columns", "mapped", "expected"),
    [
        (["messages", "prompt", "completion", "text"], {}, "messages"),
        (["conversations", "id"], {}, "sharegpt"),
        (["instruction", "input", "output", "text"], {}, "alpaca"),
        (["instruction", "output"], {}, "alpaca"),
        (["prompt", "completion"], {}, "prompt_completion"),
        (["text", "url"], {}, "text"),
        (["problem", "solution", "level"], {}, "problem_solution"),
        (["id", "system_prompt", "question", "response"], {}, "question_response"),
        (["id", "query", "answers", "tools"], {}, "xlam"),
        (["input", "output", "instructions"], {}, "responses"),
        (["question", "answer"], {"prompt": "question", "completion": "answer"}, "prompt_completion"),
        (["instruction", "output"], {"prompt": "instruction", "completion": "output"}, "prompt_completion"),
        (["instruction", "response"], {"output": "response"}, "alpaca"),
        (["chat", "text"], {"messages": "chat"}, "messages"),
        (["instruction", "context", "output"], {"input": "context"}, "alpaca"),
        (["instruction", "context", "response", "category"], {}, "instruction_response"),
        (["prompt", "response"], {}, "prompt_response"),
        (["system", "query", "response"], {}, "query_response"),
        (["question", "answer"], {}, "question_answer"),
        (["system", "user", "assistant"], {}, "user_assistant"),
        (["conversation", "system"], {}, "conversation"),
        (["message_tree_id", "tree_state", "prompt"], {}, "tree"),
        (["message_id", "parent_id", "text", "role", "replies"], {}, "tree_root"),
        (["message_id", "parent_id", "text", "role", "lang"], {}, "tree_messages"),
        (["text", "input_ids", "attention_mask", "labels"], {}, "tokens"),
        (["messages", "input_ids", "labels"], {}, "messages"),
        (["content", "meta"], {}, "content"),
        (["document"], {}, "document"),
        (["response"], {}, "response"),
    ],
)
def test_auto(columns, mapped, expected):
    assert detect_format(columns, mapped) == expected
    assert resolve_format("auto", columns, mapped, "mine") == expected


LISTS = "`sft formats` lists what each format needs"


@pytest.mark.parametrize(
    ("columns", "mapped", "expected"),
    [
        pytest.param(
            ["problem", "target"], {},
            "no format fits the columns problem, target\n"
            f"  fix: 'data.mix.mine.columns={{prompt: problem, completion: target}}'; {LISTS}",
            id="other-names",
        ),
        pytest.param(
            ["instruction", "context", "output"], {},
            "no format fits the columns instruction, context, output\n"
            f"  fix: 'data.mix.mine.columns={{input: context}}'; {LISTS}",
            id="an-input-that-would-not-be-read",
        ),
        pytest.param(
            ["question", "solution"], {"prompt": "question"},
            "no format fits the columns question, solution\n"
            f"  fix: 'data.mix.mine.columns={{prompt: question, completion: solution}}'; {LISTS}",
            id="half-a-map",
        ),
        pytest.param(
            ["text", "role"], {},
            "no format fits the columns text, role; each row seems to be one message\n"
            "  fix: collect the messages of a conversation in one row, as a list under messages, or join them in "
            "`format`",
            id="one-message-a-row",
        ),
        pytest.param(
            ["context", "response"], {},
            "no format fits the columns context, response\n"
            "  fix: if 'context' is the question and 'response' answers: "
            f"'data.mix.mine.columns={{prompt: context, completion: response}}'; {LISTS}",
            id="an-answer-is-no-document",
        ),
        pytest.param(
            ["document", "summary"], {},
            "no format fits the columns document, summary\n"
            "  fix: if 'document' is the question and 'summary' answers: "
            f"'data.mix.mine.columns={{prompt: document, completion: summary}}'; {LISTS}",
            id="a-summary-is-no-document",
        ),
        pytest.param(
            ["id", "Ticket", "Reply"], {},
            "no format fits the columns id, Ticket, Reply\n"
            "  fix: if 'Ticket' is the question and 'Reply' answers: "
            f"'data.mix.mine.columns={{prompt: Ticket, completion: Reply}}'; {LISTS}",
            id="names-of-ones-own",
        ),
        pytest.param(
            ["Question?", "the answer"], {},
            "no format fits the columns Question?, the answer; "
            "the nearest is question_answer, which needs question, answer\n"
            "  fix: 'data.mix.mine.columns={question: \"Question?\", answer: \"the answer\"}'",
            id="names-that-need-quotes",
        ),
        pytest.param(
            ["instruction", "input", "outpt"], {},
            "no format fits the columns instruction, input, outpt; the nearest is alpaca, which needs output\n"
            "  fix: 'data.mix.mine.columns={output: outpt}'",
            id="misspelt",
        ),
        pytest.param(
            ["prompt", "id"], {},
            "no format fits the columns prompt, id; 'prompt' \n"
            f"  fix: add a column completion with an answer in every row; {LISTS}",
            id="questions-alone",
        ),
        pytest.param(
            [], {},
            "no row has columns, so no format can be detected\n"
            "  fix: check that the content of the file matches its suffix:"
            " each line of a .jsonl file is one JSON object",
            id="nothing",
        ),
        pytest.param(
            ["q", "a"], {"instrution": "q"},
            "columns maps 'instrution', a name no format reads\n  fix: did you mean instruction?",
            id="unknown-name",
        ),
        pytest.param(
            ["q", "a"], {"zzz": "q"},
            "columns maps 'zzz', a name no format reads\n"
            "  fix: `sft formats` lists the formats and the names that they read",
            id="unknown-name-nothing-near",
        ),
        pytest.param(
            ["frage", "antwort"], {"frage": "question", "antwort": "answer"},
            "columns maps 'frage', a name no format reads\n"
            "  fix: the format's name comes first, the file's second: 'data.mix.mine.columns={question: frage}'",
            id="the-wrong-way-round",
        ),
    ],
)  # fmt: skip
def test_auto_refuses(columns, mapped, expected):
    with pytest.raises(SftError) as caught:
        resolve_format("auto", columns, mapped, "mine")
    assert str(caught.value) == f"data.mix.mine.format: {expected}"


def test_a_format_that_does_not_exist():
    assert resolve_format("alpaca", [], {}, "mine") == "alpaca"
    with pytest.raises(SftError) as caught:
        resolve_format("alpacca", [], {}, "mine")
    assert str(caught.value) == (
        "data.mix.mine.format: unknown format 'alpacca'; "
        "known are auto, messages, sharegpt, conversation, tree, tree_root, tree_messages, xlam, alpaca, "
        "instruction_response, prompt_completion, prompt_response, query_response, question_response, "
        "problem_solution, question_answer, user_assistant, responses, chosen, tokens, text, lines, rendered, content, "
        "document, response\n  fix: did you mean alpaca?"
    )


@pytest.mark.parametrize(
    ("format", "values"),
    [
        ("alpaca", {"instruction": "Q", "output": ""}),
        ("alpaca", {"instruction": "Q", "output": "A", "history": [["a", ""]]}),
        ("prompt_completion", {"prompt": "Q", "completion": ""}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": ""}]}),
    ],
)
def test_silence_is_an_answer(format, values):
    """Data sets hold such rows on purpose; preparation counts them, and filters judge them."""
    conversation = convert(Row(values, "a:1", "a"), format, {}, "\n\n")

    assert "" in [message.content for message in conversation.messages if message.role == "assistant"]
