"""RMS norms with a special backward pass, and float32 products by oneDNN."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sft_cli.model.speed import onednn as fused_matmul
from sft_cli.model.speed.onednn import enable_onednn_float32, keeps_float32, matmul_error
from sft_cli.model.speed.rms_norm import match_rms_norm, replace_rms_norms, restore_rms_norms


def frozen(kind, eps=1e-6):
    norm = kind(48, eps=eps)
    norm.weight.data.copy_(torch.randn(48, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.7)
    return norm.requires_grad_(False)


def run(norm, x):
    x = x.detach().requires_grad_()
    out = norm(x)
    (out * torch.linspace(-1, 2, 48)).sum().backward()
    return out.detach(), x.grad


@pytest.mark.parametrize(("kind", "offset"), [(LlamaRMSNorm, 0.0), (Gemma2RMSNorm, 1.0)])
def test_replace_rms_norms_keeps_values_and_gradients(kind, offset):
    norm = frozen(kind, 1e-5)
    assert match_rms_norm(norm) == (1e-5, offset)
    x = torch.randn(2, 7, 3, 48, generator=torch.Generator().manual_seed(1))
    expected, gradient = run(norm, x)
    assert replace_rms_norms(norm) == 1
    found, ours = run(norm, x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (ours - gradient).norm() <= 1e-6 * gradient.norm()
    restore_rms_norms(norm)
    assert "forward" not in vars(norm)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma2RMSNorm])
def test_bfloat16_is_as_close_to_float32_as_before(kind):
    exact, norm = frozen(kind).bfloat16().float(), frozen(kind).bfloat16()
    x = torch.randn(1, 200, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = run(exact, x.float())
    theirs = run(norm, x)
    replace_rms_norms(norm)
    for reference, own, old in zip(expected, run(norm, x), theirs, strict=True):
        assert (own.float() - reference).norm() <= 1.5 * (old.float() - reference).norm()  # one rounding more


class Centred(nn.Module):
    """A layer norm with the attributes of an RMS norm."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight, None, self.eps)


class OtherEps(LlamaRMSNorm):
    """An RMS norm that adds ten times its epsilon."""

    def forward(self, hidden_states):
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, 10 * self.variance_epsilon)


@pytest.mark.parametrize("kind", [Centred, OtherEps])
def test_match_rms_norm_skips_other_norms(kind):
    assert replace_rms_norms(frozen(kind)) == 0


def test_norms_with_trained_weights_are_not_replaced():
    norm = frozen(LlamaRMSNorm)
    replace_rms_norms(norm)
    norm.requires_grad_(True)
    run(norm, torch.randn(2, 48))
    assert norm.weight.grad is not None
    assert replace_rms_norms(norm) == 0


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("fpu avx2 avx512f avx512_bf16", True), ("fpu avx512f amx_bf16 amx_tile", False), ("fpu avx2", False)],
)
def test_keeps_float32(tmp_path, flags, exact):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert keeps_float32(file) is exact
    assert not keeps_float32(tmp_path / "none")


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield before
    torch.set_float32_matmul_precision(before)


def test_enable_onednn_float32(precision):
    if enable_onednn_float32():
        assert torch.get_float32_matmul_precision() == "medium"
    assert matmul_error() <= 2e-6


def test_enable_onednn_float32_reverts_on_loss_of_precision(precision, monkeypatch, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("flags\t: avx512f\n")
    monkeypatch.setattr(fused_matmul, "matmul_error", lambda: 3e-3)
    assert not enable_onednn_float32(file)
    assert torch.get_float32_matmul_precision() == precision
