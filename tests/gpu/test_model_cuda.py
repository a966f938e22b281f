"""Models on a CUDA device: adapters on every kind of stored weight learn in packed rows."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model
from sft_cli.model.speed.rms_norm import replace_rms_norms

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


def packed_row_on(device):
    """Return the arguments of ``LossModel.forward`` for a row of two documents."""
    ids = torch.randint(256, (1, 60), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.cat([torch.arange(20), torch.arange(40)])[None].to(device)
    at = torch.arange(30, 59, device=device)
    weights = torch.full((len(at),), 1 / len(at), device=device)
    return ids, positions, pack_row([20, 40]).to(device), ids[0, at + 1], at, weights


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(kl=0.5)], ids=["plain", "kl"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Gemma3TextConfig(**SIZES, head_dim=64, sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=["llama", "gemma3"],
)
def test_forward_and_backward_do_not_wait_for_the_device(config, loss):
    """The loop reads the loss once a step; models with two kinds of layers ask for two masks."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).to("cuda", torch.bfloat16)
    model = add_adapter(base, AdapterConfig(), [], seed=0).model
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=16, loss=loss)
    row = packed_row_on(torch.device("cuda", 0))
    with torch.autocast("cuda", torch.bfloat16):
        loss_model(*row)["loss"].backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss_model(*row)["loss"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_rms_norms_keep_their_type_under_autocast():
    """torch 2.12 computes them in float32 under CUDA's autocast; queries, keys and the residual stream would follow."""
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).to("cuda", torch.bfloat16)
    norm = base.model.norm
    for value in base.parameters():
        value.requires_grad_(False)
    assert replace_rms_norms(base) == 5
    states = torch.randn(1, 8, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        assert norm(states).dtype is torch.bfloat16
