"""Fused LoRA layers, norms and the last block on a CUDA device against PEFT's own forward there."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from sft_cli.model.attention.packing import packed_row_arguments, use_packed_attention
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.last_block import skip_unused_positions
from sft_cli.model.speed.rms_norm import replace_rms_norms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning"),
]
SIZES = {"vocab_size": 256, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def gradients(model):
    ids = torch.randint(256, (1, 300), generator=torch.Generator().manual_seed(0)).cuda()
    model.zero_grad()
    row = packed_row_arguments([100, 200], torch.device("cuda"))
    logits = model.get_base_model()(input_ids=ids, **row).logits[0].float()
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    loss.backward()
    return loss.item(), {name: own.grad.clone() for name, own in model.named_parameters() if own.requires_grad}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "nf4"])
def test_fused_layers_keep_loss_and_gradients(tmp_path, kind, checkpointed):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, initializer_range=0.1)).save_pretrained(tmp_path)
    stored = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=dtype, device_map={"": 0}, quantization_config=stored if kind == "nf4" else None
    )
    lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    use_packed_attention(model)
    expected = gradients(model)
    assert fuse_lora(model).layers == 14
    assert replace_rms_norms(model) == 5
    assert skip_unused_positions(model) == 2
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    found = gradients(model)
    loss, relative = (1e-5, 1e-3) if kind == "float32" else (2e-2, 0.1)
    assert abs(found[0] - expected[0]) <= loss
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= relative * gradient.norm(), name
