"""The stop tokens in each file that a server may read."""

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import Gemma3Config, LlamaConfig

from sft_cli.model.export_files import set_eos_tokens, set_tokenizer_eos


def saved(directory, eos, template="{{ messages }}"):
    """Save a tokenizer of three tokens, <end> 0, <turn> 1 and <stop> 2."""
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
def test_set_tokenizer_eos(tmp_path, eos, stops, after):
    saved(tmp_path, eos)
    set_tokenizer_eos(tmp_path, stops)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values == {"eos_token": after, "model_max_length": 9}
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == {"eos_token": after}


def test_set_tokenizer_eos_keeps_the_eos_of_a_template(tmp_path):
    saved(tmp_path, "<end>", "{{ messages }}{{ eos_token }}")
    set_tokenizer_eos(tmp_path, [1])
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<end>"


@pytest.mark.parametrize("kind", [LlamaConfig, Gemma3Config])
@pytest.mark.parametrize(("stops", "named"), [([5], 5), ([5, 0], [5, 0])])
def test_set_eos_tokens_includes_the_text_config(kind, stops, named):
    config = kind()
    set_eos_tokens(config, stops)
    assert config.eos_token_id == config.get_text_config().eos_token_id == named
