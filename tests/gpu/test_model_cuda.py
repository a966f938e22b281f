"""Models on a CUDA device: adapters on every kind of stored weight learn in packed rows."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SIZES = {"vocab_size": 256, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


@pytest.mark.parametrize("kind", list(QuantKind))
def test_adapter_training_lowers_the_loss(tmp_path, kind):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, initializer_range=0.1)).save_pretrained(tmp_path)
    device = torch.device("cuda", 0)
    base = load_model(
        ModelConfig(path=str(tmp_path)), QuantConfig(kind=kind), full=False, device=device,
        compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = add_adapter(base, AdapterConfig(), [], seed=0).model
    assert probe_packing(model).packed_ok
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=16)
    ids = torch.randint(256, (1, 60), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.cat([torch.arange(20), torch.arange(40)])[None].to(device)
    at = torch.arange(30, 59, device=device)
    row = (ids, positions, pack_row([20, 40]).to(device), ids[0, at + 1], at)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = loss_model(*row, torch.full((len(at),), 1 / len(at), device=device))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
