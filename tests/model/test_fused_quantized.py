"""Fused LoRA layers on 4-bit weights: as exact as plain layers, and weights are dequantized once per pass."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from sft_cli.model.quant import dequantize, evaluation_mode
from sft_cli.model.speed.fused_lora import fuse_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

IDS = torch.arange(3, 23)[None]


def adapted(directory, kind, *, plain=False):
    stored = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(directory, quantization_config=stored, dtype=torch.float32)
    if plain:
        base = dequantize(base, torch.float32)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, lora).train()


def gradients(model):
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: own.grad.clone() for name, own in model.named_parameters() if own.requires_grad}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_loss_and_gradients_equal_those_of_dequantized_weights(saved, kind, checkpointed, monkeypatch):
    import bitsandbytes.functional

    expected = gradients(adapted(saved, kind, plain=True))
    model = adapted(saved, kind)
    assert fuse_lora(model).layers == 14
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    calls, own = [], bitsandbytes.functional.dequantize_4bit
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda *a, **k: calls.append(1) or own(*a, **k))
    found = gradients(model)
    # Once forward, and once for recomputation and backward; q, k, v of the first layer compute no input gradient.
    assert len(calls) in ({28} if checkpointed else {25})
    assert abs(found[0] - expected[0]) <= 1e-5
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_evaluation_does_not_change_the_stored_weights(saved):
    model = adapted(saved, "nf4")
    fuse_lora(model)
    before = gradients(model)
    with evaluation_mode(model):
        model(input_ids=IDS)
    after = gradients(model)
    assert after[0] == before[0]
    assert all(torch.equal(after[1][name], own) for name, own in before[1].items())
