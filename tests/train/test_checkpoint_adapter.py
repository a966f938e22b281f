"""A checkpoint opens with PEFT alone."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from sft_cli.model.adapter.add import silence_peft_warnings
from sft_cli.train.checkpoints.checkpoint import TrainProgress, TrainState, save_checkpoint
from sft_cli.train.checkpoints.checkpoint_dir import find_fault
from sft_cli.train.optimizers.weight_average import ExponentialMovingAverage


def base() -> LlamaForCausalLM:
    """Return a tiny model; every call returns the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_opens_with_peft(tmp_path, averaged):
    with silence_peft_warnings():
        model = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3]))
    average = ExponentialMovingAverage(0.9) if averaged else None
    row = torch.tensor([[1, 2, 3, 4]])
    for value in (0.2, 0.6):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(value)
        if average is not None:
            average.update(model)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    state = TrainState(model, optimizer, LambdaLR(optimizer, lambda step: 1.0), None, average)

    saved = save_checkpoint(tmp_path, TrainProgress(step=2), state, {})

    with silence_peft_warnings():
        opened = PeftModel.from_pretrained(base(), str(saved))
    expected = 0.2 + 0.4 * 0.1 / (1 - 0.9**2) if averaged else 0.6
    for name, parameter in opened.named_parameters():
        if "lora_" in name or "trainable_tokens_delta" in name:
            assert torch.allclose(parameter, torch.full_like(parameter, expected)), name
    trained = [one for one in model.parameters() if one.requires_grad]
    assert all((one == 0.6).all() for one in trained), "training continues with its own weights"
    if not averaged:
        assert torch.equal(opened(row).logits, model.eval()(row).logits)
    assert find_fault(saved) is None
    (saved / "adapter_config.json").write_text("{}")
    assert find_fault(saved) == "adapter_config.json does not match its sha256"
