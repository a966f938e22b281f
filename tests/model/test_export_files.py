"""A model ends where it was tuned to, whichever of its files a server reads."""

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import Gemma3Config, LlamaConfig

from sft_cli.model.export_files import ends_at, tokenizer_ends_at


def saved(directory, eos, template="{{ messages }}"):
    """A tokenizer of three tokens, <end> 0, <turn> 1 and <stop> 2."""
    Tokenizer(models.WordLevel({"<end>": 0, "<turn>": 1, "<stop>": 2}, unk_token="<end>")).save(
        str(directory / "tokenizer.json")
    )
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "model_max_length": 9}))
    (directory / "special_tokens_map.json").write_text(json.dumps({"eos_token": eos}))
    (directory / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize(
    ("eos", "stops", "after"),
    [
        ("<end>", [1], "<turn>"),
        ("<end>", [2, 1], "<stop>"),
        ("<end>", [1, 0], "<end>"),
        ({"content": "<end>", "lstrip": True}, [1], {"content": "<turn>", "lstrip": True}),
        (None, [1], "<turn>"),
    ],
)
def test_the_tokenizer_names_a_stop_token(tmp_path, eos, stops, after):
    saved(tmp_path, eos)
    tokenizer_ends_at(tmp_path, stops)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values == {"eos_token": after, "model_max_length": 9}
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == {"eos_token": after}


def test_a_template_that_writes_the_end_of_text_keeps_the_one_it_was_trained_with(tmp_path):
    saved(tmp_path, "<end>", "{{ messages }}{{ eos_token }}")
    tokenizer_ends_at(tmp_path, [1])
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<end>"


@pytest.mark.parametrize("kind", [LlamaConfig, Gemma3Config])
@pytest.mark.parametrize(("stops", "named"), [([5], 5), ([5, 0], [5, 0])])
def test_the_configuration_names_them_also_in_its_text_part(kind, stops, named):
    config = kind()
    ends_at(config, stops)
    assert config.eos_token_id == config.get_text_config().eos_token_id == named
