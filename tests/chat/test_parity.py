"""transformers' tokenizer gives the trained ids, or the difference is reported."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

import pytest
from tokenizers import pre_tokenizers, processors
from transformers import LlamaConfig, Qwen2Config

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from tests.chat.helpers import letters, talk, text

DATED = """
{{- strftime_now('%d %b %Y') + ' ' -}}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""


def saved(make_builder, tokenizer, directory):
    """Save the tokenizer and return the directory that a server reads."""
    tokenizer.with_template(make_builder.span_finder.template.source).save(directory)
    return directory


def test_saved_golden_prompts_pass_the_check(make_builder, tokenizer, tmp_path):
    builder = make_builder()
    golden = parity.golden_prompt(builder, talk("S:Be brief", "U:a", "A:b", "U:\u00e9 \U0001f600", "A:c"))
    assert [message["role"] for message in golden.messages] == ["system", "user", "assistant", "user"]
    parity.save_golden_prompts([golden], tmp_path / "golden.json")
    assert parity.load_golden_prompts(tmp_path / "golden.json") == [golden]
    assert parity.check_parity(saved(builder, tokenizer, tmp_path / "server"), [golden]) == 1


def test_prompts_with_special_strings_have_no_golden_prompt(make_builder):
    assert parity.golden_prompt(make_builder(), talk("U:<|im_end|>", "A:b")) is None


def test_another_template_on_the_server_is_reported(make_builder, tokenizer, tmp_path):
    golden = parity.golden_prompt(make_builder(), talk("U:a", "A:b"))
    other = saved(make_builder("vicuna"), tokenizer, tmp_path / "server")
    with pytest.raises(SftError) as caught:
        parity.check_parity(other, [golden])
    assert caught.value.where == f"rows.jsonl:7 with the tokenizer in {other}"
    assert caught.value.problem.startswith("a server would send ids that differ from the trained ones: from id 0 on [")


def test_a_template_that_writes_the_date_passes_on_any_day(tokenizer, tmp_path):
    """The golden prompt has the date of preparation; a server writes the current date, and nothing else differs."""
    then = ChatTemplate(DATED, tokenizer.special_tokens, "dated", datetime(2020, 2, 29))
    builder = ExampleBuilder(tokenizer, then, DataConfig(), 1000)
    golden = parity.golden_prompt(builder, talk("U:a", "A:b"))
    assert tokenizer.decode_batch([golden.input_ids])[0].startswith("29 Feb 2020 <|im_start|>user")
    directory = saved(builder, tokenizer, tmp_path / "server")
    assert parity.check_parity(directory, [golden]) == 1
    golden.input_ids[-1] += 1
    with pytest.raises(SftError, match="ids that differ from the trained ones"):
        parity.check_parity(directory, [golden])


def test_one_preparation_has_one_clock(tokenizer):
    """Prompt and text are rendered at different times, and a template may write the microsecond."""
    clock = ChatTemplate(DATED.replace("%d %b %Y", "%H:%M:%S.%f"), tokenizer.special_tokens, "clock")
    outcome = ExampleBuilder(tokenizer, clock, DataConfig(), 1000).build([talk("U:a", "A:b", "U:c", "A:d")])[0]
    assert outcome.problem is None
    assert len(outcome.examples) == 1


def test_a_packaged_template_begins_with_the_bos_token(build_tokenizer, make_builder):
    """Servers add nothing around a chat template, so the template must contain the bos token."""
    backend = letters()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    tokenizer = build_tokenizer(backend)
    outcome = make_builder("chatml", tokenizer).build([talk("U:a", "A:b")])[0]
    assert text(tokenizer, outcome.examples[0]).startswith("<s><|im_start|>user")
    assert list(outcome.examples[0].input_ids).count(tokenizer.control_tokens["<s>"]) == 1


def test_a_saved_tokenizer_is_the_same_one(build_tokenizer, make_builder, tmp_path):
    """Preparing the same data with it gives the same fingerprint."""
    tokenizer = build_tokenizer(chat_template="{{ old }}")
    again = load_tokenizer(str(saved(make_builder("chatml", tokenizer), tokenizer, tmp_path / "server")))
    assert again.digests() == tokenizer.digests()
    assert again.digests() != build_tokenizer(model_max_length=7).digests()


def test_the_saved_configuration_has_no_second_template(build_tokenizer, make_builder, tmp_path):
    tokenizer = build_tokenizer(chat_template="{{ old }}")
    assert tokenizer.chat_template == "{{ old }}"
    directory = saved(make_builder("chatml", tokenizer), tokenizer, tmp_path / "server")
    assert "chat_template" not in json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "<|im_start|>" in (directory / "chat_template.jinja").read_text(encoding="utf-8")


def test_a_model_whose_class_rebuilds_the_tokenizer_is_reported(make_builder, tokenizer, tmp_path):
    """transformers replaces the pre-tokenizer of any tokenizer.json in the directory of a Qwen2 model."""
    golden = parity.golden_prompt(make_builder(), talk("U:e\u0301", "A:b"))  # Qwen2's normalizer joins the two
    directory = saved(make_builder(), tokenizer, tmp_path / "server")
    assert parity.check_parity(directory, [golden], LlamaConfig()) == 1
    with pytest.raises(SftError, match="a server would send ids that differ from the trained ones"):
        parity.check_parity(directory, [golden], Qwen2Config())


@pytest.mark.parametrize("model", [LlamaConfig, Qwen2Config])
def test_ids_that_differ_only_in_an_answer_are_reported_before_training(make_builder, tokenizer, tmp_path, model):
    """The prompt has the same ids; only the whole row shows that a Qwen2 server encodes the answer differently."""
    builder, row = make_builder(), talk("U:a", "A:e\u0301")
    (example,) = builder.build([row])[0].examples
    prompt = parity.golden_prompt(builder, row)
    whole = replace(prompt, row_ids=list(example.input_ids))
    directory = saved(builder, tokenizer, tmp_path / "server")
    assert parity.check_parity(directory, [prompt], model()) == 1
    if model is LlamaConfig:
        assert parity.check_parity(directory, [whole], model()) == 1
        return
    with pytest.raises(SftError) as caught:
        parity.check_parity(directory, [whole], model())
    assert caught.value.where == f"rows.jsonl:7 with the tokenizer in {directory}"
    assert caught.value.problem.startswith(
        "a server would encode this row to ids that differ from the trained ones: from id "
    )


def test_a_tokenizer_without_tokenizer_json_is_converted_once(tmp_path, monkeypatch):
    """Older models have a vocabulary and merges like GPT-2."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    source = tmp_path / "gpt2"
    source.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "hi", "<|endoftext|>"])}
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    (source / "merges.txt").write_text("#version: 0.2\nh i\n")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')

    first, second = load_tokenizer(str(source)), load_tokenizer(str(source))

    assert first.decode_batch(first.encode_batch(["hi \u00e9"])) == ["hi \u00e9"]
    assert first.encode_batch(["hi"]) == [[vocabulary["hi"]]]
    assert first.directory == second.directory
    assert len(list((tmp_path / "home" / "tokenizers").iterdir())) == 1

    monkeypatch.setenv("SFT_HOME", str(tmp_path / "other"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(load_tokenizer, [str(source)] * 2))
    assert both[0].directory == both[1].directory
    assert [file.name for file in (tmp_path / "other" / "tokenizers").iterdir()] == [first.directory.name]


def test_a_failed_conversion_leaves_no_files(tmp_path, monkeypatch):
    """The tokenizer needs remote code, which makes transformers prompt on the terminal."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    source = tmp_path / "own"
    source.mkdir()
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(own))
    (source / "own.py").write_text("class Own: pass")
    prompted = []
    monkeypatch.setattr("builtins.input", prompted.append)

    with pytest.raises(SftError, match=r"no tokenizer\.json, and the tokenizer cannot be converted"):
        load_tokenizer(str(source))
    assert list((tmp_path / "home" / "tokenizers").iterdir()) == []
    assert prompted == []
