"""The format of a source: detected, mapped by columns, or refused."""

import pytest

from sft_cli.data.formats.detect import detect_format, resolve_format
from sft_cli.errors import SftError
from tests.data.format_helpers import convert, row


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
            "  fix: add 'context' to the row, or remove data.mix.mine.columns.input",
            id="optional-but-mapped",
        ),
        pytest.param(
            {"instruction": "question", "outptu": "answer"},
            "data.mix.mine.columns: unknown name 'outptu'; "
            "the format reads instruction, output, input, system, system_prompt, history, tools\n"
            "  fix: 'data.mix.mine.columns={instruction: question, output: answer}'",
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
def test_invalid_column_maps_are_refused(columns, expected):
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
def test_auto_detects_the_format(columns, mapped, expected):
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
            "  fix: if 'context' is the question and 'response' the answer: "
            f"'data.mix.mine.columns={{prompt: context, completion: response}}'; {LISTS}",
            id="an-answer-is-no-document",
        ),
        pytest.param(
            ["document", "summary"], {},
            "no format fits the columns document, summary\n"
            "  fix: if 'document' is the question and 'summary' the answer: "
            f"'data.mix.mine.columns={{prompt: document, completion: summary}}'; {LISTS}",
            id="a-summary-is-no-document",
        ),
        pytest.param(
            ["id", "Ticket", "Reply"], {},
            "no format fits the columns id, Ticket, Reply\n"
            "  fix: if 'Ticket' is the question and 'Reply' the answer: "
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
            "no format fits the columns prompt, id; there is no column for the answer to 'prompt'\n"
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
            "columns maps 'instrution', a name no format reads\n"
            "  fix: 'data.mix.mine.columns={instruction: q}'",
            id="unknown-name",
        ),
        pytest.param(
            ["frage", "antwort", "topic"], {"prompt": "frage", "completion": "antwrt"},
            "columns maps completion to 'antwrt', which the first row does not have; it has frage, antwort, topic\n"
            "  fix: 'data.mix.mine.columns={prompt: frage, completion: antwort}'",
            id="misspelt-column",
        ),
        pytest.param(
            ["frage", "response", "id"], {"prompt": "frage", "completion": "zzz"},
            "columns maps completion to 'zzz', which the first row does not have; it has frage, response, id\n"
            "  fix: 'data.mix.mine.columns={prompt: frage, completion: response}'",
            id="column-that-does-not-exist",
        ),
        pytest.param(
            ["frage", "antwort"], {"prompt": "zzz", "completion": "yyy"},
            "columns maps prompt to 'zzz', which the first row does not have; it has frage, antwort\n"
            "  fix: 'data.mix.mine.columns={prompt: frage, completion: antwort}'",
            id="two-columns-that-do-not-exist",
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
def test_auto_refuses_ambiguous_columns(columns, mapped, expected):
    with pytest.raises(SftError) as caught:
        resolve_format("auto", columns, mapped, "mine")
    assert str(caught.value) == f"data.mix.mine.format: {expected}"


def test_unknown_format_is_refused():
    assert resolve_format("alpaca", [], {}, "mine") == "alpaca"
    with pytest.raises(SftError) as caught:
        resolve_format("alpacca", [], {}, "mine")
    assert str(caught.value) == (
        "data.mix.mine.format: unknown format 'alpacca'; "
        "known are auto, messages, sharegpt, conversation, tree, tree_root, tree_messages, xlam, alpaca, "
        "instruction_response, prompt_completion, prompt_response, query_response, question_response, "
        "problem_solution, question_answer, user_assistant, responses, chosen, tokens, text, lines, rendered, content, "
        "document, response\n  fix: data.mix.mine.format=alpaca"
    )
