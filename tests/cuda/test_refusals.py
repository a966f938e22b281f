"""The simulated card refuses what a card refuses: run by ``test_on_simulator.py``."""

import copy
import warnings

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention.kernels import AttentionSpec
from sft_cli.model.attention.varlen import packed_varlen_attention
from tests.gpu.device import is_simulated, waits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not is_simulated(), reason="about the simulated card")]
BOUNDS = (0, 3, 8)


def states(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device="cuda", requires_grad=True)


def varlen(dtype=torch.bfloat16, width=16, bounds_dtype=torch.int32, bounds_device="cuda", longest=5, key_dtype=None):
    """FlashAttention's kernel as ``packed_varlen_attention`` reaches it, with one argument wrong."""
    bounds = torch.tensor(BOUNDS, dtype=bounds_dtype, device=bounds_device)
    query, key, value = (states(8, heads, width, dtype=dtype) for heads in (4, 2, 2))
    key = key if key_dtype is None else key.to(key_dtype)
    return torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, 0.0, True, False
    )


def test_the_kernel_for_many_lengths_takes_what_is_right():
    assert varlen()[0].shape == (8, 4, 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bounds_dtype": torch.int64}, "cu_seqlens must have dtype int32"),
        ({"bounds_device": "cpu"}, "cu_seqlens must have dtype int32 on CUDA"),
        ({"dtype": torch.float32}, "only support fp16 and bf16"),
        ({"key_dtype": torch.float16}, "must have the same dtype"),
        ({"width": 20}, "multiple of 8"),
        ({"longest": 4}, "longer than max_q"),
    ],
)
def test_the_kernel_for_many_lengths_refuses(wrong, message):
    with pytest.raises(RuntimeError, match=message):
        varlen(**wrong)


def test_wrong_bounds_of_the_project_are_found(monkeypatch):
    """The same mistake made where rows are packed."""
    row = pack_row([3, 5]).to(torch.device("cuda"))
    object.__setattr__(row, "cu_keys", row.cu_keys.long())
    query, key, value = (states(1, heads, 8, 16) for heads in (4, 2, 2))

    with pytest.raises(RuntimeError, match="int32"):
        packed_varlen_attention(query, key, value, row, AttentionSpec())


def test_devices_do_not_mix():
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    for mistake in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()]):
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            mistake()
    assert (there + torch.tensor(1.0)).is_cuda  # a number may come along


def test_a_generator_of_the_cpu_is_refused():
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


def test_the_card_draws_from_its_own_generator():
    of_cpu, of_card = torch.get_rng_state(), torch.cuda.get_rng_state()
    first = torch.nn.functional.dropout(torch.ones(100, device="cuda"))

    assert torch.equal(of_cpu, torch.get_rng_state())
    torch.cuda.set_rng_state(of_card)
    assert torch.equal(first, torch.nn.functional.dropout(torch.ones(100, device="cuda")))
    assert not torch.equal(first, torch.nn.functional.dropout(torch.ones(100, device="cuda")))


@pytest.mark.parametrize(
    "wait",
    [
        lambda card: card.sum().item(),
        lambda card: card.cpu(),
        lambda card: card[card > 0],
        lambda card: torch.empty(3).copy_(card, non_blocking=True),  # into pages that may move
        lambda card: torch.ones(3).to("cuda"),
        lambda card: (card > 5).nonzero(),
        lambda card: bool((card > 5).any()),
        lambda card: torch.cuda.current_stream().synchronize(),
    ],
)
def test_waits_are_seen(wait):
    with waits() as seen:
        wait(torch.ones(3, device="cuda"))
    assert len(seen) == 1
    assert "test_refusals.py" in seen[0] or "torch.ops" in seen[0]


def test_what_does_not_wait_is_not_counted():
    card, pinned = torch.ones(3, device="cuda", requires_grad=True), torch.empty(3, pin_memory=True)
    with waits() as seen:
        (card * 2).sum().backward()
        card.masked_fill(card > 5, 0)
        pinned.to("cuda", non_blocking=True)
        pinned.copy_(card.detach(), non_blocking=True)
    assert seen == []


def test_a_wait_in_a_backward_pass_is_seen():
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float(gradient.sum())

    loss = Waits.apply(torch.ones(3, device="cuda", requires_grad=True)).sum()
    with waits() as seen:
        loss.backward()
    assert len(seen) == 1


def test_memory_is_counted_and_limited():
    start, mebibyte = torch.cuda.memory_allocated(), 1 << 20
    held = torch.ones(mebibyte, dtype=torch.uint8, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    del held
    assert torch.cuda.memory_allocated() == start
    assert torch.cuda.max_memory_allocated() == start + mebibyte
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((start + mebibyte) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.ones(2 * mebibyte, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.ops.simulated_cuda.fail_allocation(2)
    first = torch.ones(3, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        first + first


def test_views_and_changes_of_storage_follow():
    card = torch.arange(6.0, device="cuda")
    view = card.view(2, 3)[1]
    view += 1
    assert card.tolist() == [0, 1, 2, 4, 5, 6]
    assert card.resize_(10).untyped_storage().nbytes() == 40
    assert card[:6].tolist() == [0, 1, 2, 4, 5, 6]
    twin = copy.deepcopy(card)
    twin.zero_()
    assert (card[5].item(), twin.is_cuda) == (6, True)
    card.set_(twin)
    assert card.data_ptr() == twin.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_the_numbers_of_the_cpu(dtype, masked):
    """Of the flash kernel in half precision, and of the memory-efficient one."""
    parts = [states(2, 4, 9, 16, dtype=dtype) for _ in range(3)]
    others = [part.detach().cpu().float().requires_grad_() for part in parts]
    mask = torch.randn(2, 1, 9, 9).to(dtype) if masked else None
    out = scaled_dot_product_attention(*parts, mask if mask is None else mask.cuda(), is_causal=not masked)
    expected = scaled_dot_product_attention(*others, mask if mask is None else mask.float(), is_causal=not masked)
    weight = torch.randn(2, 4, 9, 16)
    out.backward(weight.to(out))
    expected.backward(weight)

    tolerance = {"rtol": 0.02, "atol": 0.03} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out.float().cpu(), expected, **tolerance)
    for own, other in zip(parts, others, strict=True):
        torch.testing.assert_close(own.grad.float().cpu(), other.grad, **tolerance)


def test_flex_attention_refuses():
    from torch.nn.attention import flex_attention as torch_flex

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 9, 9, device="cuda")
    query, key = states(1, 4, 9, 16), states(1, 2, 9, 16)
    for wrong, message in (
        ((query, key, key.float()), "same dtype"),
        ((query, key, key), "same number of heads"),
        ((query[:, :, :8], key, key), "another length"),
        ((states(1, 4, 9, 8), states(1, 4, 9, 8), states(1, 4, 9, 8)), "16 wide"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch_flex.flex_attention(*wrong, block_mask=mask, enable_gqa=message == "another length")


def test_norms_have_cudas_type_under_autocast():
    """Since torch 2.12 a norm is computed, and returned, in float32 there; on a CPU it is not."""
    with torch.autocast("cuda", torch.bfloat16):
        assert rms_norm(states(2, 8), (8,)).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(torch.ones(2, 8, dtype=torch.bfloat16), (8,)).dtype is torch.bfloat16


def test_pinned_memory_is_known():
    assert torch.ones(3).pin_memory().is_pinned()
    assert not torch.ones(3).is_pinned()


def test_warnings_are_as_before():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.ones(3, device="cuda").sum().item()
