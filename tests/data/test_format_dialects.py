"""Column names of data sets for a question and its answer, and lists of exchanges."""

import json

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats import registry
from sft_cli.data.formats.row_converter import FORMATS, make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.types import Row


def convert(values, format="auto", **config):
    result = make_converter(SourceConfig(format=format, **config), "mine", "\n\n", values).convert(
        Row(values, "a:1", "mine")
    )
    return [(message.role, message.content) for message in result[0].messages]


EXCHANGE = [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"query": "Q", "response": "A"}, EXCHANGE),
        ({"prompt": "Q", "response": "A"}, EXCHANGE),
        ({"question": "Q", "answer": "A"}, EXCHANGE),
        ({"user": "Q", "assistant": "A", "system": "S"}, [("system", "S"), *EXCHANGE]),
        ({"query": "Q", "response": "A", "history": [["q", "a"]]}, [("user", "q"), ("assistant", "a"), *EXCHANGE]),
        ({"query": "Q", "response": "A", "history": '[["q", "a"]]'}, [("user", "q"), ("assistant", "a"), *EXCHANGE]),
        ({"query": "Q", "response": "A", "history": ""}, EXCHANGE),
        ({"instruction": "Q", "input": "I", "response": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"instruction": "Q", "context": "I", "response": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"instruction": "Q", "context": "", "input": "I", "response": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"conversation": [{"human": "Q", "assistant": "A"}] * 2}, EXCHANGE * 2),
        ({"conversation": [{"system": "S", "input": "Q", "output": "A"}]}, [("system", "S"), *EXCHANGE]),
        ({"conversation": [{"human": "Q", "assistant": "A"}], "system": "S"}, [("system", "S"), *EXCHANGE]),
        ({"conversation": [{"role": "user", "content": "Q"}, {"from": "gpt", "value": "A"}]}, EXCHANGE),
        ({"conversation": json.dumps([{"human": "Q", "assistant": ""}])}, [("user", "Q"), ("assistant", "")]),
    ],
)
def test_dialects_are_recognized(values, expected):
    assert convert(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            {"instruction": "Q", "context": "C", "input": "I", "response": "A"},
            "fields input and context both hold an input of the instruction\n  fix: keep one of them",
            id="two-inputs",
        ),
        pytest.param(
            {"conversation": []},
            "field 'conversation' has no exchanges; there is nothing to train on\n  fix: add one or remove the row",
            id="empty",
        ),
        pytest.param(
            {"conversation": ["Q", "A"]},
            "field 'conversation[0]' is 'Q' (text); expected an exchange {human, assistant}\n"
            "  fix: write it as an exchange {human, assistant}, or point columns at another column",
            id="texts",
        ),
        pytest.param(
            {"conversation": [{"human": "Q", "gpt": "A"}]},
            "field 'conversation[0]' has human, gpt; expected human and assistant\n"
            '  fix: write each exchange as {"human": "…", "assistant": "…"}',
            id="half",
        ),
        pytest.param(
            {"conversation": [{"human": "Q", "assistant": "A"}, {"human": "", "assistant": "A"}]},
            "field 'conversation[1].human' is ''; expected non-empty text\n  fix: remove the exchange or the row",
            id="silent-question",
        ),
        pytest.param(
            {"conversation": [{"human": "Q", "assistant": "A"}, {"human": "Q", "assistant": "A", "system": "S"}]},
            "field 'conversation[1].system' is a system message that is not the first message\n"
            "  fix: move it to the front or remove it",
            id="late-system",
        ),
        pytest.param(
            {"conversation": "hello"},
            "field 'conversation' is 'hello' (text); expected a list of exchanges {human, assistant}\n"
            "  fix: write it as a list of exchanges {human, assistant}, or point columns at another column",
            id="a-text",
        ),
    ],
)
def test_invalid_rows_are_refused(values, expected):
    with pytest.raises(RowError) as caught:
        convert(values)
    assert str(caught.value) == f"a:1: {expected}"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_example_converts(name):
    """``auto`` detects the format of each example unless it must be named, and the example converts."""
    example = dict(FORMATS[name].example)
    result = make_converter(SourceConfig(format=name if FORMATS[name].named else "auto"), "mine", "\n\n", example)
    assert result.name == name
    if result.needs_all_rows:
        root = {"message_id": "a", "parent_id": None, "text": "2 + 3?", "role": "prompter"}
        made = list(result.convert_all([Row(root, "a:1", "mine"), Row(example, "a:2", "mine")]))
    else:
        made = list(result.convert(Row(example, "a:1", "mine")))
    assert len(made) == 1
    last = made[0].messages[-1:]
    assert made[0].text or made[0].tokens or last[0].content == "5" or last[0].extra["tool_calls"]


def test_description_lists_every_format_with_its_columns():
    text = registry.describe_formats()
    for name, shape in FORMATS.items():
        block = next(block for block in text.split("\n\n") if block.startswith(f"{name}: "))
        assert shape.description in block
        assert f"columns: {', '.join(shape.required)}" in block or not shape.required
        assert json.loads(block.split("example: ")[1]) == shape.example
    assert "custom: Jinja" in text
