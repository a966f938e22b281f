"""Tokenizers with several named templates: rows with tools take tool_use, others default, as transformers chooses."""

import json

import pytest
from transformers import AutoTokenizer

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.added_tokens import add_tokens
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.compose import compose
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Message
from tests.chat.helpers import talk, text

TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},)
CALL = Message("assistant", "", extra={"tool_calls": [{"function": {"name": "look", "arguments": {"a": "b"}}}]})
DEFAULT = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
TOOL_USE = """
{%- if tools %}{{ '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content -}}
    {%- for c in m.tool_calls or [] -%}{{- c.function.name ~ c.function.arguments | tojson -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
RAG = "{{- '<|im_start|>rag\\n' -}}" + DEFAULT
NAMED = [{"name": "default", "template": DEFAULT}, {"name": "tool_use", "template": TOOL_USE}]
WITH_TOOLS = talk("U:q", CALL, "T:sun", "A:done", tools=TOOLS)
WITHOUT = talk("U:q", "A:a")


@pytest.fixture(params=["list", "files"])
def named(build_tokenizer, request):
    """Return a tokenizer with the templates default, tool_use and rag, in one of the two forms of transformers."""
    entries = [*NAMED, {"name": "rag", "template": RAG}]
    if request.param == "list":
        return build_tokenizer(chat_template=entries)
    tokenizer = build_tokenizer(template=DEFAULT)
    folder = tokenizer.directory / "additional_chat_templates"
    folder.mkdir()
    for entry in entries[1:]:
        (folder / f"{entry['name']}.jinja").write_text(entry["template"])
    return load_tokenizer(str(tokenizer.directory))


def builder_of(tokenizer, **template):
    return ExampleBuilder(tokenizer, load_template(TemplateConfig(**template), tokenizer), DataConfig(), 1000)


def save(builder, tokenizer, directory):
    """Save the tokenizer as preparation does."""
    template = builder.span_finder.template
    tokenizer.with_template(template.source, template.named).save(directory)
    return directory


def test_rows_with_tools_use_the_tool_use_template(named):
    builder = builder_of(named)
    builder.template_check.check()
    with_tools, without = builder.build([WITH_TOOLS, WITHOUT])
    assert with_tools.problem is without.problem is None
    assert text(named, with_tools.examples[0]).startswith("<|im_start|>tools\n[{")
    assert text(named, without.examples[0]) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"


def test_a_server_encodes_both_kinds_to_the_same_ids(named, tmp_path):
    """The saved tokenizer keeps the templates in a form that transformers reads."""
    builder = builder_of(named)
    goldens = [parity.golden_prompt(builder, one) for one in (WITH_TOOLS, WITHOUT)]
    saved = save(builder, named, tmp_path / "first")
    assert parity.check_parity(saved, goldens) == 2
    again = load_tokenizer(str(saved))
    assert again.named_templates == {"rag": RAG, "tool_use": TOOL_USE}
    assert AutoTokenizer.from_pretrained(saved).chat_template == {"default": DEFAULT, "rag": RAG, "tool_use": TOOL_USE}
    assert parity.check_parity(save(builder_of(again), again, tmp_path / "second"), goldens) == 2
    one_template = again.with_template(DEFAULT)
    one_template.save(tmp_path / "third")
    with pytest.raises(SftError, match="ids that differ from the trained ones"):
        parity.check_parity(tmp_path / "third", goldens)


@pytest.mark.parametrize(("name", "begins"), [("rag", "rag"), ("default", "user"), ("tool_use", "tools")])
def test_a_template_chosen_by_name_renders_all_rows_and_is_saved(named, tmp_path, name, begins):
    builder = builder_of(named, name=name)
    conversation = talk("U:q", "A:a", tools=TOOLS if name == "tool_use" else None)
    (example,) = builder.build([conversation])[0].examples
    assert text(named, example).startswith(f"<|im_start|>{begins}\n")
    saved = save(builder, named, tmp_path / "saved")
    assert parity.check_parity(saved, [parity.golden_prompt(builder, conversation)]) == 1
    assert load_tokenizer(str(saved)).named_templates == {}


def test_a_packaged_template_replaces_all_named_ones(named):
    template = load_template(TemplateConfig(name="alpaca"), named)
    assert template.for_tools is template


def test_an_unknown_name_lists_the_available_templates(named):
    with pytest.raises(SftError) as caught:
        load_template(TemplateConfig(name="tooluse"), named)
    assert str(caught.value.fix) == (
        "template.name=tool_use; the names: auto, alpaca, chatml, llama2, plain, vicuna;"
        " the tokenizer's own: default, rag, tool_use"
    )


def test_templates_without_a_default_are_named(build_tokenizer):
    with pytest.raises(SftError) as caught:
        load_template(TemplateConfig(), build_tokenizer(chat_template=NAMED[1:]))
    assert caught.value.problem == "template=auto, but none of the tokenizer's templates is called default (tool_use)"
    assert caught.value.fix == "choose one of them: template.name=tool_use"


def test_a_variable_that_only_the_tool_template_reads_is_read(build_tokenizer):
    entries = [NAMED[0], {"name": "tool_use", "template": TOOL_USE + "{{ tail }}"}]
    tokenizer = build_tokenizer(chat_template=entries)
    template = load_template(TemplateConfig(variables={"tail": "x"}), tokenizer)
    assert template.for_tools.render([], list(TOOLS), prompt=False).endswith("x")
    with pytest.raises(SftError, match="reads no such variable"):
        load_template(TemplateConfig(variables={"head": "x"}), tokenizer)


def test_added_tokens_keep_the_templates(named, tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    assert add_tokens(named, ["<|new|>"]).named_templates == {"rag": RAG, "tool_use": TOOL_USE}


@pytest.mark.parametrize(
    "value", [[{"name": "../default", "template": "x"}], [{"name": "default"}], ["x"], 7, {"default": 1}]
)
def test_templates_in_no_known_form_are_rejected(build_tokenizer, value):
    with pytest.raises(SftError, match=r"neither a text nor a list of \{name, template\}"):
        build_tokenizer(chat_template=value)


def test_a_broken_tool_template_is_rejected_before_any_row(build_tokenizer):
    entries = [NAMED[0], {"name": "tool_use", "template": "{% for %}"}]
    with pytest.raises(SftError) as caught:
        load_template(TemplateConfig(), build_tokenizer(chat_template=entries))
    assert caught.value.where == "the tokenizer's own template tool_use, line 1"


def test_a_rejected_row_names_the_template_that_refused_it(build_tokenizer):
    entries = [NAMED[0], {"name": "tool_use", "template": "{{ raise_exception('no') }}"}]
    outcome = builder_of(build_tokenizer(chat_template=json.loads(json.dumps(entries)))).build([WITH_TOOLS])[0]
    assert outcome.problem.problem.startswith("its mask cannot be proven with the tokenizer's own template tool_use: ")


def test_the_last_template_override_wins(tmp_path, monkeypatch):
    """``template=rag`` is not a file of the package; the last override wins, as for every option."""
    monkeypatch.chdir(tmp_path)
    assert [compose([f"template={name}"], ()).template.name for name in ("rag", "tool_use", "default")] == [
        "rag",
        "tool_use",
        "default",
    ]
    assert compose(["template=rag", "template.name=alpaca"], ()).template.name == "alpaca"
