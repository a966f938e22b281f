"""The prepared tokenizer and template: golden prompts, served prompts, and suggestions for a missing template."""

import itertools
import json
from dataclasses import replace

import pytest

from sft_cli.chat.masks import parity
from sft_cli.chat.template.conversation_features import ConversationFeatures
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.config.schema.data import OnBadRow, SourceConfig
from sft_cli.errors import SftError
from sft_cli.prepare import source_preview
from sft_cli.prepare.model_template import load_tokenizer_and_template
from sft_cli.prepare.prepare import prepare_data
from tests.prepare.helpers import messages, read_ledger


def test_golden_rows_of_every_kind_are_kept(make_config, tmp_path):
    """At most four rows of each kind are kept, however late in the file the kind begins."""
    plain = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(9)
    ]
    system = {"messages": [{"role": "system", "content": "s"}, *plain[0]["messages"]]}
    turns = {"messages": [*plain[0]["messages"], *plain[1]["messages"]]}
    file = tmp_path / "kinds.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (*plain, system, turns)))
    made_config = make_config()
    made_config.data.mix = {"kinds": SourceConfig(path=str(file))}
    made_config.data.val_fraction = 0.0
    result = prepare_data(made_config)

    goldens = parity.load_golden_prompts(result.directory / "golden.json")
    assert [one.where.rpartition(":")[2] for one in goldens] == ["1", "2", "3", "4", "10", "11"]
    rows = {
        result.train.where(index): result.train.tokens(index).input_ids.tolist() for index in range(len(result.train))
    }
    assert {one.where: one.row_ids for one in goldens} == {one.where: rows[one.where] for one in goldens}


def test_transformers_makes_the_same_prompts(make_config):
    """The test also detects a prompt that differs."""
    result = prepare_data(make_config())
    goldens = parity.load_golden_prompts(result.directory / "golden.json")
    assert parity.check_parity(result.tokenizer_directory, goldens) == 4
    goldens[2].input_ids[1] += 1
    with pytest.raises(SftError) as caught:
        parity.check_parity(result.tokenizer_directory, goldens)
    assert caught.value.where.startswith(goldens[2].where)
    assert "a server would send ids that differ from the trained ones: from id 1 on" in caught.value.problem


def test_golden_prompt_is_that_of_the_last_trained_turn(make_config):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d", 0)]
    result = prepare_data(make_config([messages(*turns)]))
    (golden,) = parity.load_golden_prompts(result.directory / "golden.json")
    assert [message["content"] for message in golden.messages] == ["a"]
    assert parity.check_parity(result.tokenizer_directory, [golden]) == 1


def test_saved_tokenizer_has_the_template(make_config):
    made_config = make_config()
    made_config.template.name = "vicuna"
    result = prepare_data(made_config)
    assert "USER: " in (result.tokenizer_directory / "chat_template.jinja").read_text(encoding="utf-8")


@pytest.mark.material
@pytest.mark.parametrize(
    ("tokenizer", "file"),
    [
        ("qwen2_5", "alpaca/alpaca_tiny.json"),
        ("qwen3", "sharegpt/dummy_conversation.json"),
        ("llama3", "messages/v1_sft_demo.jsonl"),
        ("qwen2_5", "sharegpt/glaive_toolcall_en_demo.json"),
        ("mistral_v3", "sharegpt/glaive_toolcall_en_demo.json"),
        ("llama2", "alpaca/identity.json"),
    ],
)
def test_served_prompts_of_real_data_equal_trained_ones(make_config, material_dir, tokenizer, file):
    made_config = make_config()
    made_config.model.tokenizer, made_config.template.name = str(material_dir / "tokenizers" / tokenizer), "auto"
    names = {"name": "Ada", "author": "us"}
    made_config.data.mix["mine"] = SourceConfig(path=str(material_dir / "data" / file), variables=names)
    made_config.data.on_bad_row, made_config.data.budget.dropped = OnBadRow.drop, 1.0
    made_config.trainer.max_length = 16384
    result = prepare_data(made_config)
    counts = result.manifest["sources"]["mine"]
    assert counts["used"] + counts["dropped"] == counts["rows"] == len(read_ledger(result))
    assert counts["used"] > 0.4 * counts["rows"]
    assert (
        parity.check_parity(result.tokenizer_directory, parity.load_golden_prompts(result.directory / "golden.json"))
        > 0
    )


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        pytest.param(
            {"messages": TALK, "tools": [TOOL]},
            "choose a template that renders these parts of the rows (tools): template.path=FILE.jinja",
            id="tools",
        ),
        pytest.param(
            {"messages": [TALK[0], {"role": "tool", "content": "x"}, TALK[1]]},
            "choose one that fits this tokenizer and the rows: template=chatml, plain",
            id="results",
        ),
    ],
)
def test_suggested_templates_depend_on_the_rows(make_config, home, row, fix):
    result = make_config([row])
    tokenizer, template = load_tokenizer_and_template(result)
    check = TemplateCheck(tokenizer, replace(template, source=""), result.data)
    assert check.suggestion(source_preview.first_row_features(result)) == fix


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=6)))
def test_example_of_row_contents_has_the_same_contents(flags):
    assert ConversationFeatures.from_conversation(ConversationFeatures(*flags).example()) == ConversationFeatures(
        *flags
    )
