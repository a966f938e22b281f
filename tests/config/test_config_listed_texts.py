"""Lists of texts typed without quotes, with any characters."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import SftError

BASE = ["model.path=m", "data=local", "data.mix.local.path=rows.jsonl"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("[<tool>,</tool>]", ["<tool>", "</tool>"]),
        ("[<|call|>, <|end|>]", ["<|call|>", "<|end|>"]),
        ("['<a>',\"<b>\"]", ["<a>", "<b>"]),
        ("[tool]", ["tool"]),
        ("[]", []),
        ("[<a, b>]", ["<a", "b>"]),
        ("['<a, b>']", ["<a, b>"]),
    ],
)
def test_tokens(typed, expected):
    assert compose([*BASE, f"model.add_tokens={typed}"]).model.add_tokens == expected


def test_patterns():
    config = compose([*BASE, "adapter=none", r"adapter.train=[^model\.norm,lm_head$]"])
    assert config.adapter.train == [r"^model\.norm", "lm_head$"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["model.add_tokens=[<a>,[<b>]]"],
            "command line: 'model.add_tokens=[<a>,[<b>]]' cannot be read\n"
            "  fix: did you mean 'model.add_tokens=[<a>,<b>]'?",
            id="nested",
        ),
        pytest.param(
            ["model.add_tokens=[<a>]", "adapter=ia3"],
            "command line: model.add_tokens is set with adapter.kind ia3, which does not train the embeddings of new"
            " tokens\n  fix: choose adapter=lora or adapter=none, or remove model.add_tokens",
            id="kind",
        ),
        pytest.param(
            ["adapter=prefix", "speed.gradient_checkpointing=full"],
            "command line: speed.gradient_checkpointing is full with adapter.kind prefix, whose keys and values"
            " are a cache that recomputed layers do not read\n"
            "  fix: set speed.gradient_checkpointing=none, or choose adapter=prompt",
            id="prefix",
        ),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(SftError) as caught:
        compose([*BASE, *words])
    assert str(caught.value) == message


def test_every_wrong_token_is_reported():
    with pytest.raises(SftError) as caught:
        compose([*BASE, "model.add_tokens=['<a>','<a>',' ']"])
    assert "model.add_tokens holds '<a>' 2 times" in str(caught.value)
    assert "model.add_tokens holds ' ', which is not a token" in str(caught.value)


@pytest.mark.parametrize("adapter", ["prefix", "prompt", "llama_adapter", "bitfit"])
def test_choices_compose(adapter):
    assert compose([*BASE, f"adapter={adapter}"]).adapter.kind.value == adapter
    assert compose([*BASE, "quant=fp4"]).quant.double_quant
