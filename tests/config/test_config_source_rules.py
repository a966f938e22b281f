"""Errors in the settings that read a source's rows, and composition of formats from YAML."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import Mistakes, SftError

A = "data.mix.a.path=a.jsonl"


def errors_of(words) -> list[tuple[str, str]]:
    with pytest.raises(SftError) as caught:
        compose(words)
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    return [(error.problem, error.fix) for error in errors]


@pytest.mark.parametrize(
    ("word", "problem", "fix"),
    [
        *(
            (
                f"data.mix.a.tree.paths={typed}",
                f"data.mix.a.tree.paths is '{value}'; it must be best, all or ranked(k) with a number k from 1",
                "write a value such as data.mix.a.tree.paths=ranked(2)",
            )
            for typed, value in [("worst", "worst"), ("'ranked(0)'", "ranked(0)"), ("'ranked(x)'", "ranked(x)"),
                                 ("'ranked 2'", "ranked 2"), ("Best", "Best")]
        ),
        (
            "data.mix.a.variables={first-name: Ada}",
            "data.mix.a.variables names 'first-name'; a placeholder consists of letters, digits and _",
            "rename the placeholder here and in the rows",
        ),
        (
            "data.mix.a.tags={repaired: x}",
            "data.mix.a.tags.repaired is a tag set by sft prepare",
            "choose another name",
        ),
        ("data.mix.a.format=''", "data.mix.a.format is empty", "write data.mix.a.format=auto, or remove it"),
        ("data.mix.a.format={}", "data.mix.a.format is empty", "write data.mix.a.format=auto, or remove it"),
    ],
)  # fmt: skip
def test_mistakes(word, problem, fix):
    assert errors_of([A, word]) == [(problem, fix)]


@pytest.mark.parametrize("paths", ["best", "all", "ranked(1)", "ranked(12)"])
def test_paths(paths, tmp_path):
    assert compose([A, f"data.mix.a.tree.paths='{paths}'"]).data.mix["a"].tree.paths == paths


def test_columns_with_a_custom_format_are_refused():
    words = [A, "data.mix.a.format={text: '{{ body }}'}", "data.mix.a.columns={text: body}"]
    assert errors_of(words) == [
        (
            "data.mix.a.columns would have no effect: the texts of data.mix.a.format name the columns themselves",
            "remove data.mix.a.columns",
        )
    ]


RECIPE = """# @package _global_
# sft prepare recipe=./own.yaml
# nothing
data:
  mix:
    own:
      path: rows.jsonl
      format:
        messages: |
          [{"role": "user", "content": {{ question | tojson }}},
           {"role": "assistant", "content": {{ answer | tojson }}}]
        system: "Cost in ${x}? {{ kind }}"
"""


def test_format_texts_in_a_recipe_are_unchanged(tmp_path, monkeypatch):
    """Hydra does not interpret their braces and quotation marks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(RECIPE.replace("${x}", "$5"), encoding="utf-8")
    found = compose(["recipe=./own.yaml"]).data.mix["own"].format
    assert found == {
        "messages": '[{"role": "user", "content": {{ question | tojson }}},\n'
        ' {"role": "assistant", "content": {{ answer | tojson }}}]\n',
        "system": "Cost in $5? {{ kind }}",
    }


def test_format_on_the_command_line():
    words = [A, "data.mix.a.format={prompt: '{{ q }}', completion: '{{ steps | join(\" \") }}'}"]
    assert compose(words).data.mix["a"].format == {"prompt": "{{ q }}", "completion": '{{ steps | join(" ") }}'}


@pytest.mark.parametrize(
    ("word", "field", "expected"),
    [
        ("data.mix.a.format.text='{{ body }}'", "format", {"text": "{{ body }}"}),
        ("data.mix.a.format.text={{ body }} [x]", "format", {"text": "{{ body }} [x]"}),
        ("data.mix.a.variables.name=007", "variables", {"name": "007"}),
        ("data.mix.a.tags.task=no", "tags", {"task": "no"}),
        ("data.mix.a.scores.quality=1", "scores", {"quality": "1"}),
        ("data.mix.a.columns.output=null_answers", "columns", {"output": "null_answers"}),
        ("data.mix.a.format=alpaca", "format", "alpaca"),
    ],
)
def test_texts_in_a_mapping_are_kept_as_typed(word, field, expected):
    assert vars(compose([A, word]).data.mix["a"])[field] == expected
