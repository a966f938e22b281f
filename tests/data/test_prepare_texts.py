"""What `prepare` says about special tokens, stop tokens and headers that stand in messages."""

import re

import pytest
from prepare_hand import write

from sft_cli.chat.tokenizer import load_tokenizer
from sft_cli.config.data_schema import SourceConfig
from sft_cli.data.prepare import prepare
from sft_cli.eval.rows import as_served


@pytest.fixture
def prepared(config, tmp_path, capsys):
    """Prepares rows with changes to the config; the result and what was printed."""

    def prepared(values, change=lambda config: None, **source):
        write(tmp_path / "mine.jsonl", values)
        made_config = config()
        made_config.data.mix = {"mine": SourceConfig(path=str(tmp_path / "mine.jsonl"), **source)}
        change(made_config)
        capsys.readouterr()
        made = prepare(made_config)
        return made, made_config, capsys.readouterr().out

    return prepared


def added(*tokens):
    def change(config):
        config.model.add_tokens = list(tokens)

    return change


def test_an_added_token_that_no_example_holds_is_named(prepared):
    """Held-out rows do not train; an ordinary token counts in a question, a control token only in an answer."""
    values = [{"prompt": f"<x>{i} <|ask|>", "completion": f"<|plan|>{i}"} for i in range(5)]
    made, _, printed = prepared(values, added("<x>", "<|plan|>", "<|ask|>", "<y>"))
    assert made.manifest["unused_tokens"] == ["<|ask|>", "<y>"]
    lines = re.findall(r"unused .*", printed)
    assert lines == [
        f"unused    {token} of model.add_tokens is in no training example: its embeddings would not train"
        for token in ("<|ask|>", "<y>")
    ]
    tokenizer = load_tokenizer(str(made.tokenizer_directory))
    plan = tokenizer.control["<|plan|>"]
    labels = [made.train.tokens(i) for i in range(len(made.train))]
    assert [(row.input_ids[row.weights > 0] == plan).sum() for row in labels] == [1] * 5


def test_an_evaluation_encodes_them_as_the_training_did(prepared):
    made, config, _ = prepared([{"prompt": "q", "completion": "<|plan|>a"}], added("<|plan|>", "<x>"))
    again = prepare(as_served(made.tokenizer_directory, config))
    assert again.manifest["content"] == made.manifest["content"]
    assert again.manifest["fingerprint"] == made.manifest["fingerprint"]


def test_what_is_content_is_among_the_inputs(prepared):
    values = [{"prompt": "q", "completion": "<|plan|>a"}]
    made, config, _ = prepared(values, added("<|plan|>"))
    served = as_served(made.tokenizer_directory, config)
    served.data.content_tokens = []
    assert prepare(served).manifest["content"] != made.manifest["content"]
