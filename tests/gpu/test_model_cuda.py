"""The variable-length kernel on a CUDA device against one document after the other on the CPU."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from sft_cli.config.schema import AdapterConfig, ModelConfig, QuantConfig, QuantKind
from sft_cli.model.adapters import add_adapter
from sft_cli.model.attention import probe, use_packed
from sft_cli.model.head import LossModel
from sft_cli.model.kernels import has_varlen_kernel, one_document, varlen
from sft_cli.model.load import load_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SIZES = {"vocab_size": 256, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7, 64])
def test_the_kernel_is_one_document_after_the_other(dtype, window):
    """Grouped heads, windows, lengths from one token; forward and gradients."""
    lengths = [1, 37, 5, 128]
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, heads, sum(lengths), 64, generator=generator) for heads in (8, 2, 2)]
    cuda = [part.to("cuda", dtype).requires_grad_() for part in parts]
    exact = [part.to(dtype).float().requires_grad_() for part in parts]
    assert has_varlen_kernel(cuda[0], cuda[2])
    bounds = torch.tensor([0, *lengths]).cumsum(0).to("cuda", torch.int32)
    out = varlen(*cuda, bounds, max(lengths), 0.1, window)
    documents = zip(*(part.split(lengths, dim=2) for part in exact), strict=True)
    expected = torch.cat([one_document(*own, 0.1, window, None, 0.0) for own in documents], dim=2).transpose(1, 2)
    out.float().pow(2).sum().backward()
    expected.pow(2).sum().backward()

    torch.testing.assert_close(out.float().cpu(), expected, rtol=0.02, atol=0.02)
    for ours, theirs in zip(cuda, exact, strict=True):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad.float().cpu(), theirs.grad, rtol=0.05, atol=0.02 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=4)])
def test_the_probe_passes(config, dtype):
    torch.manual_seed(0)
    result = probe(AutoModelForCausalLM.from_config(config).to("cuda", dtype))
    assert result.packed_ok, result.reason


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
    assert probe(model).packed_ok
    use_packed(model)
    loss_model = LossModel(model, packed=True, chunk=16)
    ids = torch.randint(256, (1, 60), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.cat([torch.arange(20), torch.arange(40)])[None].to(device)
    at = torch.arange(30, 59, device=device)
    row = (ids, positions, torch.tensor([0, 20, 60], dtype=torch.int32, device=device), 40, ids[0, at + 1], at)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = loss_model(*row, torch.full((len(at),), 1 / len(at), device=device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
