"""Computing the last layer only at needed positions does not change loss and gradients."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPTNeoXConfig, Qwen3MoeConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention.packing import document_arguments, use_packed_attention
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.last_block import restore_all_positions, skip_unused_positions

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

READ = [1, 4, 5, 11, 16]


def adapted(base):
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
                      fan_in_fan_out=base.config.model_type == "gpt2")  # fmt: skip
    model = get_peft_model(base, lora)
    use_packed_attention(model)
    return model


def hidden_and_gradients(model, read_at):
    """Return the needed hidden states, and the gradients of a fixed sum of them."""
    lm = model.get_base_model()
    ids = torch.randint(160, (1, 18), generator=torch.Generator().manual_seed(2))
    row = replace(pack_row([7, 11]), read_positions=read_at)
    positions = torch.cat([torch.arange(7), torch.arange(11)])[None]
    hidden = lm.base_model(input_ids=ids, position_ids=positions, **document_arguments(row)).last_hidden_state[0, READ]
    model.zero_grad()
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    return hidden.detach(), {name: own.grad.clone() for name, own in model.named_parameters() if own.requires_grad}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral-window", "gemma2", "cohere", "gpt2"])
def test_skip_unused_positions_keeps_states_and_gradients(build, family, checkpointed):
    model = adapted(build(family))
    expected, gradients = hidden_and_gradients(model, None)
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    fuse_lora(model)
    assert skip_unused_positions(model) == 2
    hidden, found = hidden_and_gradients(model, torch.tensor(READ))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_skip_unused_positions_computes_fewer_rows(build):
    model = adapted(build("llama"))
    fuse_lora(model)
    skip_unused_positions(model)
    seen = []
    layer = model.get_base_model().model.layers[-1]
    layer.mlp.up_proj.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    hidden_and_gradients(model, torch.tensor(READ))
    hidden_and_gradients(model, None)
    restore_all_positions(model)
    hidden_and_gradients(model, torch.tensor(READ))
    assert seen == [5, 18, 18]


def test_skip_unused_positions_skips_balanced_experts():
    sizes = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    base = AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(
            **sizes, num_attention_heads=2, num_key_value_heads=2, head_dim=32, moe_intermediate_size=32, num_experts=4
        )
    )
    use_packed_attention(base)
    assert skip_unused_positions(base) == "the load-balancing loss of a mixture of experts needs all tokens"


def test_skip_unused_positions_with_parallel_blocks():
    """GPT-NeoX adds attention and MLP to the same input."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=160, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=96, use_parallel_residual=True)  # fmt: skip
    model = adapted(AutoModelForCausalLM.from_config(config))
    expected, gradients = hidden_and_gradients(model, None)
    assert isinstance(skip_unused_positions(model), int)
    hidden, found = hidden_and_gradients(model, torch.tensor(READ))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)
    assert all((found[name] - own).norm() <= 1e-5 * own.norm() for name, own in gradients.items())
