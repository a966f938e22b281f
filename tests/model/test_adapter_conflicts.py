"""Conflicting adapter settings are errors before training; merging adapters on tied embeddings."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_cli.config.compose import compose
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init, TrainStopToken, VeraConfig
from sft_cli.errors import SftError
from sft_cli.merge.merge import untie_embeddings
from sft_cli.model.adapter.add import add_adapter

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def tiny(*, tied: bool = True) -> LlamaForCausalLM:
    """Return a random Llama with 64 tokens and 32 inputs per layer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


@pytest.mark.parametrize(
    ("tied", "config", "message"),
    [
        (
            True,
            AdapterConfig(modules_to_save=["lm_head"], train_stop_token=TrainStopToken.always),
            "adapter.modules_to_save: rows [7] must be trained in embedding and head, which are one matrix in this"
            " model, but only lm_head would be fully trained\n"
            "  fix: adapter.modules_to_save=[embed_tokens,lm_head], or remove it: then only the rows are trained",
        ),
        (
            True,
            AdapterConfig(target_modules=["q_proj", "lm_head"], train_stop_token=TrainStopToken.always),
            "adapter.target_modules: lm_head would get an adapter, but its rows [7] must be trained directly\n"
            "  fix: remove it from adapter.target_modules, or train it fully:"
            " adapter.modules_to_save=[embed_tokens,lm_head]",
        ),
        (
            False,
            AdapterConfig(target_modules=["q_proj", "embed_tokens"], train_stop_token=TrainStopToken.always),
            "adapter.target_modules: model.embed_tokens would get an adapter, but its rows [7] must be trained"
            " directly\n  fix: remove it from adapter.target_modules, or train it fully:"
            " adapter.modules_to_save=[embed_tokens]",
        ),
        (
            True,
            AdapterConfig(kind=AdapterKind.vera, target_modules=["q_proj", "embed_tokens"]),
            "adapter.kind=vera: VeRA supports linear layers only, but model.embed_tokens is Embedding\n"
            "  fix: adapter.target_modules=[all-linear], or adapter=lora",
        ),
        (
            True,
            AdapterConfig(init=Init.pissa, rank=33),
            "adapter.init=pissa: it needs 33 singular directions of layer model.layers.0.self_attn.q_proj,"
            " which has 32\n"
            "  fix: adapter.rank=32, or adapter.init=default",
        ),
        (
            True,
            AdapterConfig(init=Init.eva, rank=33),
            "adapter.init=eva: it needs 33 singular directions of layer model.layers.0.self_attn.q_proj, which has 32\n"
            "  fix: adapter.rank=32, or adapter.init=default",
        ),
    ],
)
def test_conflicting_trained_parts_are_refused(tied, config, message):
    with pytest.raises(SftError) as refused:
        add_adapter(tiny(tied=tied), config, [7], seed=0)
    assert str(refused.value) == message


def test_rows_of_added_tokens_must_be_trained():
    config = AdapterConfig(kind=AdapterKind.vera, vera=VeraConfig(rank=4), modules_to_save=["lm_head"])
    with pytest.raises(SftError) as refused:
        add_adapter(tiny(tied=False), config, [7], seed=0, added_ids=[63])
    assert str(refused.value) == (
        "adapter.kind=vera: rows [63] of embedding and head must be trained, but only LoRA can train"
        " single rows\n  fix: adapter.modules_to_save=[embed_tokens,lm_head], or adapter=lora"
    )


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_on_one_of_two_tied_matrices_is_merged_into_that_one(target, tmp_path, capsys):
    config = AdapterConfig(rank=4, target_modules=["q_proj", target], train_stop_token=TrainStopToken.never)
    model = add_adapter(tiny(), config, [7], seed=0).model
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape) * 0.2)
    model.eval()
    before = model(IDS).logits

    untie_embeddings(model)
    model.merge_and_unload().save_pretrained(tmp_path)

    after = LlamaForCausalLM.from_pretrained(tmp_path)
    assert after.config.tie_word_embeddings is False
    torch.testing.assert_close(after(IDS).logits, before, atol=1e-5, rtol=1e-4)
    assert capsys.readouterr().out.startswith("head      gets its own matrix")


def test_tied_matrices_without_an_adapter_stay_tied(capsys):
    model = add_adapter(tiny(), AdapterConfig(train_stop_token=TrainStopToken.always), [7], seed=0).model
    untie_embeddings(model)
    assert model.merge_and_unload().config.tie_word_embeddings is True
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["adapter=dora", "quant=int8"],
            "quant.kind is int8 with adapter.dora, which dequantizes the weights: bitsandbytes then loses their"
            " scales\n"
            "  fix: set quant=nf4, or adapter.dora=false",
        ),
        (
            ["adapter=prompt", "adapter.virtual.text=' '"],
            "adapter.virtual.text is empty\n  fix: write a text such as 'Answer briefly.', or remove it",
        ),
    ],
)
def test_conflicting_settings_are_refused(words, message):
    with pytest.raises(SftError) as refused:
        compose(["recipe=quickstart", *words], [])
    assert str(refused.value) == f"command line: {message}"
