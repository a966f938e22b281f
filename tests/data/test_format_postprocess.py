"""Placeholders, tags, scores and replay, which apply to conversations of every format."""

import json
import math

import pytest

from sft_cli.config.schema.data import Placeholders, Role, SourceConfig, TreeConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.types import Row


def convert(values, **config):
    (result,) = make_converter(SourceConfig(**config), "mine", "\n\n", values).convert(Row(values, "a:1", "mine"))
    return result


def answer(text, **config):
    return convert({"instruction": "Q", "output": text}, **config).messages[-1].content


ME = {"name": "Ada", "author": "{{name}}'s makers"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am {{name}}.", "I am Ada."),
        ("{{ name }}{{name}}", "AdaAda"),
        ("by {{author}}", "by {{name}}'s makers"),  # inserted values are not searched again
        ("{{ user.name }} {{1,2},{3}} {{}} {{a b}} {name} {% name %} {{name|upper}}",) * 2,
        ("{{{name}}}", "{Ada}"),
    ],
)
def test_placeholders_are_filled(text, expected):
    assert answer(text, variables=ME) == expected


def test_braces_that_are_not_placeholders_can_be_kept():
    assert answer("{{title}} by {{name}}", variables={"title": "{{title}}", "name": "Ada"}) == "{{title}} by Ada"


def test_placeholders_are_filled_in_every_text():
    values = {
        "messages": [
            {"role": "system", "content": "You are {{name}}"},
            {"role": "user", "content": [{"type": "text", "text": "{{name}}?"}]},
            {
                "role": "assistant",
                "content": "{{name}}",
                "reasoning_content": "I, {{name}}",
                "tool_calls": [{"name": "f", "arguments": {"who": "{{name}}", "times": 1}}],
            },
        ],
        "tools": [{"name": "f", "description": "asks {{name}}", "parameters": {}}],
    }
    result = convert(values, variables=ME)
    assert "{{" not in json.dumps([[m.content, m.extra] for m in result.messages]) + json.dumps(result.tools)
    assert result.messages[2].extra["tool_calls"][0]["function"]["arguments"] == {"who": "Ada", "times": 1}
    assert convert({"text": "T {{name}}"}, variables=ME).text == "T Ada"


@pytest.mark.parametrize(
    ("text", "placeholder", "fix"),
    [
        (
            "by {{ maker }}",
            "{{ maker }}",
            "data.mix.mine.placeholders=keep if it is literal text, or 'data.mix.mine.variables.maker=its text'",
        ),
        ("by {{authors}}", "{{authors}}", "did you mean data.mix.mine.variables.author?"),
    ],
)
def test_placeholders_keep_leaves_text(text, placeholder, fix):
    with pytest.raises(RowError) as caught:
        answer(text, variables=ME)
    assert str(caught.value) == (
        f"a:1: the placeholder {placeholder} has no value in data.mix.mine.variables\n  fix: {fix}"
    )
    assert caught.value.reason == "unfilled placeholder"


@pytest.mark.parametrize("variables", [{}, {"other": "x"}])
def test_placeholder_without_variables_is_an_error(variables):
    with pytest.raises(RowError, match=r"the placeholder \{\{title\}\} has no value"):
        answer("<h1>{{title}}</h1>", variables=variables)


@pytest.mark.parametrize("text", ["{{ user.name }} \\frac{{1}}{{2}} {{% x %}}", "plain"])
def test_other_braces_are_text(text):
    assert answer(text) == text


def test_rows_about_templates_keep_their_braces():
    assert answer("{{title}} {{name}}", variables=ME, placeholders=Placeholders.keep) == "{{title}} Ada"
    assert answer("{{title}}", placeholders=Placeholders.keep) == "{{title}}"


def test_documents_keep_their_braces():
    assert convert({"text": "{{Infobox}} {{name}}"}).text == "{{Infobox}} {{name}}"
    assert convert({"text": "{{Infobox}} {{name}}"}, variables=ME).text == "{{Infobox}} Ada"


def test_placeholder_in_tool_arguments_is_an_error():
    calls = [{"name": "f", "arguments": {"x": ["{{name}}"]}}]
    with pytest.raises(RowError, match=r"the placeholder \{\{name\}\} has no value"):
        convert({"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]})


ROW = {
    "instruction": "Q",
    "output": "A",
    "kind": "sum",
    "judge": 4.5,
    "flag": True,
    "none": None,
    "level": 3,
    "blank": "",
}


def test_tags_and_scores():
    result = convert(
        ROW,
        tags={"task": "kind", "flagged": "flag", "level": "level", "absent": "none", "empty": "blank"},
        scores={"quality": "judge", "difficulty": "level", "absent": "none", "empty": "blank"},
    )
    assert result.tags == {"task": "sum", "flagged": "true", "level": "3"}
    assert result.scores == {"quality": 4.5, "difficulty": 3.0}


@pytest.mark.parametrize(("value", "number"), [("4.5", 4.5), (" 3 ", 3.0), ("-1e2", -100.0), (0, 0.0)])
def test_scores_of_a_csv_file_are_text(value, number):
    assert convert({**ROW, "judge": value}, scores={"quality": "judge"}).scores == {"quality": number}


@pytest.mark.parametrize("value", ["good", True, [4], {"a": 1}, math.nan, math.inf, "nan", "1e999", 10**400])
def test_score_that_is_not_a_number_is_refused(value):
    with pytest.raises(RowError) as caught:
        convert({**ROW, "judge": value}, scores={"quality": "judge"})
    assert caught.value.reason == "judge of the wrong type"
    assert "expected a finite number" in caught.value.problem


@pytest.mark.parametrize("value", [["a"], {"a": 1}, "\ud800"])
def test_tag_that_is_not_text_is_refused(value):
    with pytest.raises(RowError):
        convert({**ROW, "kind": value}, tags={"task": "kind"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"tags": {"task": "kinds"}},
            "a:1: there is no field 'kinds'; the row has instruction, output, kind, judge, flag, none, level, blank\n"
            "  fix: did you mean data.mix.mine.tags.task=kind?",
        ),
        (
            {"scores": {"quality": "stars"}},
            "a:1: there is no field 'stars'; the row has instruction, output, kind, judge, flag, none, level, blank\n"
            "  fix: give every row 'stars' (null for none), or change data.mix.mine.scores.quality",
        ),
    ],
)
def test_missing_column_is_reported(config, expected):
    with pytest.raises(RowError) as caught:
        convert(ROW, **config)
    assert str(caught.value) == expected


@pytest.mark.parametrize("values", [{"text": "T"}, {"content": "T"}, {"document": "T"}, {"response": "T"}])
def test_documents_can_be_replayed(values):
    assert convert(values, role=Role.replay).text == "T"


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "Q", "output": "A"},
        {"messages": []},
        {"message_id": "a", "text": "Q", "role": "prompter", "replies": []},
    ],
)
def test_conversations_cannot_be_replayed(values):
    with pytest.raises(SftError) as caught:
        convert(values, role=Role.replay)
    assert caught.value.where == "data.mix.mine.role"
    assert caught.value.problem.startswith("replay trains whole documents as plain text, but ")
    assert caught.value.fix == (
        "data.mix.mine.role=instruct, or train one column as documents: "
        f"data.mix.mine.format=text 'data.mix.mine.columns={{text: {list(values)[-1]}}}'"
    )


def test_conversations_named_as_a_column_can_be_replayed():
    assert convert({"output": "T"}, role=Role.replay, format="text", columns={"text": "output"}).text == "T"


def test_tree_settings_require_a_tree():
    with pytest.raises(SftError) as caught:
        convert(ROW, tree=TreeConfig(paths="all"))
    assert str(caught.value) == (
        "data.mix.mine.tree: the key has no effect: the format alpaca does not read it\n"
        "  fix: remove data.mix.mine.tree"
    )


def test_values_nested_beyond_the_recursion_limit():
    deep = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RowError) as caught:
        convert({"messages": [{"role": "assistant", "content": "A", "name": deep}]})
    assert str(caught.value) == ("a:1: the values of the row are nested too deeply to be read\n  fix: remove the row")
    with pytest.raises(RowError):
        convert({"messages": "[" * 100_000})
