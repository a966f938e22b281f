"""Formats that a user writes in YAML; the texts here are the contents of such files."""

import pytest
import yaml

from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.types import Message, Row


def source(text):
    return SourceConfig(**yaml.safe_load(text))


def convert(text, values):
    (result,) = make_converter(source(text), "mine", "\n\n", values).convert(Row(values, "a:1", "mine"))
    return result


def test_reasoning_steps_become_one_answer():
    """Rows like MetaMath: a question, a list of steps, and the number in a separate column."""
    text = """
    format:
      system: Think step by step.
      prompt: "{{ question }}"
      completion: |
        {% for step in steps -%}
        {{ loop.index }}. {{ step }}
        {% endfor -%}
        Answer: {{ answer }}
    """
    result = convert(text, {"question": "2 + 3?", "steps": ["Take 2.", "Add 3."], "answer": 5})
    assert result.messages == (
        Message("system", "Think step by step."),
        Message("user", "2 + 3?"),
        Message("assistant", "1. Take 2.\n2. Add 3.\nAnswer: 5"),
    )


def test_seed_tasks_with_nested_instances():
    text = """
    format:
      instruction: "{{ instruction }}"
      input: "{{ instances[0].input }}"
      output: "{{ instances[0].output }}"
    """
    result = convert(text, {"id": "1", "instruction": "Sum", "instances": [{"input": "2, 3", "output": "5"}]})
    assert [m.content for m in result.messages] == ["Sum\n\n2, 3", "5"]


TURNS = {"turns": [{"by": "u", "say": 'a "quote" <b>'}, {"by": "m", "say": "é\n"}], "api": '[{"name": "f"}]'}
LOOP = """
format:
  messages: |
    [
    {%- for turn in turns -%}
      {"role": {{ {"u": "user", "m": "assistant"}[turn.by] | tojson }}, "content": {{ turn.say | tojson }}}
      {{- "," if not loop.last }}
    {%- endfor -%}
    ]
  tools: "{{ api }}"
"""
EXPRESSION = """
format:
  messages: >-
    {{ [{"role": "user", "content": turns[0].say}, {"role": "assistant", "content": turns[1]["say"]}] }}
  tools: "{{ api | fromjson }}"
"""


@pytest.mark.parametrize("text", [LOOP, EXPRESSION])
def test_messages_as_json_or_as_a_list(text):
    result = convert(text, TURNS)
    assert result.messages == (Message("user", 'a "quote" <b>'), Message("assistant", "é\n"))
    assert result.tools == ({"name": "f"},)


def test_filters_can_build_a_list():
    text = "format: {history: \"{{ earlier | map('list') }}\", query: '{{ q }}', response: '{{ a }}'}"
    result = convert(text, {"earlier": [("x", "y")], "q": "Q", "a": "A"})
    assert [m.content for m in result.messages] == ["x", "y", "Q", "A"]


def test_any_column_by_name():
    text = "format: {text: '{{ row[\"my column\"] }}{{ row.n }}'}"
    assert convert(text, {"my column": "T", "n": 1}).text == "T1"


def test_tojson_does_not_escape_html_or_letters():
    """JSON in a text has no HTML entities and no escaped letters."""
    assert convert("{format: {text: '{{ x | tojson }}'}}", {"x": {"é": "<a> & 'b'"}}).text == '{"é": "<a> & \'b\'"}'


def test_name_and_placeholders():
    config = source("{format: {text: '{{ body }}'}, variables: {name: Ada}, tags: {task: kind}}")
    result = make_converter(config, "mine", "\n\n", ())
    assert (result.name, result.needs_all_rows) == ("jinja (text)", False)
    (made,) = result.convert(Row({"body": "I am {{name}}", "kind": "k"}, "a:1", "mine"))
    assert (made.text, made.tags) == ("I am Ada", {"task": "k"})


def test_trees_with_other_column_names():
    config = source("{format: {message_id: '{{ id }}', parent_id: '{{ up }}', text: '{{ said }}', role: '{{ by }}'}}")
    result = make_converter(config, "mine", "\n\n", ())
    assert result.needs_all_rows
    rows = [{"id": "1", "up": None, "said": "Q", "by": "user"}, {"id": "2", "up": "1", "said": "A", "by": "assistant"}]
    (made,) = result.convert_all(Row(values, f"a:{i}", "mine") for i, values in enumerate(rows, start=1))
    assert [m.content for m in made.messages] == ["Q", "A"]


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        pytest.param(
            '{format: {messages: "{{ [1, 2 }}"}}', ".messages, line 1",
            "not valid Jinja: unexpected '}', expected ']'\n"
            "  fix: compare brackets, quotation marks and {% end… %}; the text is Jinja over the columns of a row",
            id="syntax",
        ),
        pytest.param(
            '{format: {text: "a\\nb\\n{% for x in y %}"}}', ".text, line 3",
            "not valid Jinja: Unexpected end of template. Jinja was looking for the following tags: 'endfor' or "
            "'else'. The innermost block that needs to be closed is 'for'.\n"
            "  fix: compare brackets, quotation marks and {% end… %}; the text is Jinja over the columns of a row",
            id="line",
        ),
        pytest.param(
            "{format: {text: '{{ body | uper }}'}}", ".text, line 1",
            "not valid Jinja: No filter named 'uper'.\n"
            "  fix: compare brackets, quotation marks and {% end… %}; the text is Jinja over the columns of a row",
            id="filter",
        ),
        pytest.param(
            "{format: {prompt: question, completion: '{{ a }}'}}", ".prompt",
            "'question' reads no column, so every row would get the same text\n"
            "  fix: write {{ question }} for the column of that name",
            id="a-bare-name",
        ),
        pytest.param(
            "{format: {text: 'Hello there'}}", ".text",
            "'Hello there' reads no column, so every row would get the same text\n"
            "  fix: write the column to read in double braces",
            id="a-constant",
        ),
        pytest.param(
            "{format: {mesages: '{{ x }}'}}", "",
            "no format has the fields mesages\n  fix: did you mean messages instead of mesages?",
            id="unknown-field",
        ),
        pytest.param(
            "{format: {messages: '{{ x }}', sytem: '{{ y }}'}}", "",
            "no format has the fields messages, sytem\n  fix: did you mean system instead of sytem?",
            id="a-field-too-many",
        ),
        pytest.param(
            "{format: {prompt: '{{ x }}'}}", "",
            "no format has the fields prompt\n  fix: write messages: …, text: …, or prompt: and completion: …",
            id="half-a-format",
        ),
    ],
)  # fmt: skip
def test_invalid_templates_are_refused(text, where, expected):
    with pytest.raises(SftError) as caught:
        make_converter(source(text), "mine", "\n\n", ())
    assert str(caught.value) == f"data.mix.mine.format{where}: {expected}"


@pytest.mark.parametrize(
    ("text", "reason", "problem", "fix"),
    [
        pytest.param(
            "{{ bdoy }}", "format.text failed", "format.text: 'bdoy' is undefined",
            "the row has body, n; write column | default('') for one that may be missing", id="missing",
        ),
        pytest.param(
            "x {{ body.title.upper() }}", "format.text failed",
            "format.text: 'str object' has no attribute 'name'", None, id="attribute",
        ),
        pytest.param(
            "{{ body.__class__.__mro__ }}", "format.text failed",
            "format.text: access to attribute '__class__' of 'str' object is unsafe.", None, id="sandbox",
        ),
        pytest.param("{{ 1 / n }}", "format.text failed", "format.text: division by zero",
                     "correct the text", id="arithmetic"),
        pytest.param("{{ n }}", "format.text of the wrong type",
                     "field 'format.text' is 0 (a number); expected text", None, id="number"),
    ],
)  # fmt: skip
def test_invalid_rows_of_a_template_are_refused(text, reason, problem, fix):
    if "title" in text:
        text = "x {{ body.name.upper() }}"
    with pytest.raises(RowError) as caught:
        convert(yaml.safe_dump({"format": {"text": text}}), {"body": "B", "n": 0})
    assert (caught.value.where, caught.value.reason, caught.value.problem) == ("a:1", reason, problem)
    assert fix is None or caught.value.fix == fix


def test_undefined_value_inside_a_list_is_an_error():
    text = """{format: {messages: "{{ [{'role': 'user', 'content': missing}] }}"}}"""
    with pytest.raises(RowError, match="'missing' is undefined"):
        convert(text, {"a": 1})


def test_text_that_is_not_json_is_refused():
    text = """{format: {messages: "[{{ q }}]"}}"""
    with pytest.raises(RowError) as caught:
        convert(text, {"q": "Q"})
    assert str(caught.value) == (
        "a:1: format.messages renders to '[Q]', which is not JSON (Expecting value: line 1 column 2 (char 1))\n"
        "  fix: write values as {{ column | tojson }}, or make the whole text one {{ [ … ] }}"
    )


def test_templates_cannot_change_the_row():
    values = {"xs": [1], "body": "B"}
    with pytest.raises(RowError):
        convert("{format: {text: '{% set _ = xs.append(2) %}{{ body }}'}}", values)
    assert values == {"xs": [1], "body": "B"}


def test_columns_with_a_template_are_refused():
    config = source("{format: {text: '{{ body }}'}, columns: {text: body}}")
    with pytest.raises(SftError) as caught:
        make_converter(config, "mine", "\n\n", ())
    assert str(caught.value) == (
        "data.mix.mine.columns: the key has no effect: the format jinja (text) does not read it\n"
        "  fix: remove data.mix.mine.columns"
    )


def test_replay_of_a_written_document():
    config = SourceConfig(format={"text": "{{ title }}\n{{ body }}"}, role=Role.replay)
    (result,) = make_converter(config, "mine", "\n\n", ()).convert(Row({"title": "T", "body": "B"}, "a:1", "mine"))
    assert result.text == "T\nB"


def test_column_named_row():
    assert convert("{format: {text: '{{ row }}'}}", {"row": "R"}).text == "R"
