"""A tokenizer with one token per character of ASCII, and example builders for it."""

import json

import pytest
from tokenizers import AddedToken

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from tests.chat.helpers import SPECIAL, letters


@pytest.fixture
def build_tokenizer(tmp_path):
    """Return a function that saves a backend with special tokens and opens it as `prepare` does."""

    def build_tokenizer(backend=None, special=SPECIAL, options=None, template=None, **config):
        backend = backend or letters()
        backend.add_special_tokens([AddedToken(text, **{"normalized": False, **(options or {})}) for text in special])
        directory = tmp_path / f"tokenizer{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        backend.save(str(directory / "tokenizer.json"))
        values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
        values = {name: value for name, value in values.items() if value is not None}
        (directory / "tokenizer_config.json").write_text(json.dumps(values))
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return load_tokenizer(str(directory))

    return build_tokenizer


@pytest.fixture
def tokenizer(build_tokenizer):
    return build_tokenizer()


@pytest.fixture
def make_builder(tokenizer):
    """Return a function that makes an ExampleBuilder from a name in configs/template or a template's source."""

    def make_builder(template="chatml", with_tokenizer=tokenizer, max_length=1000, **rules):
        if "{" in template:
            found = ChatTemplate(template, with_tokenizer.special_tokens, "mine").compile()
        else:
            found = load_template(TemplateConfig(name=template), with_tokenizer)
        return ExampleBuilder(with_tokenizer, found, DataConfig(**rules), max_length)

    return make_builder
