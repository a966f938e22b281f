"""Kernels that only CUDA has: references in float32 on the host, which check what the real ones demand.

Shapes: B rows, T tokens, H query heads, K key/value heads, n queries, m keys, D width of a head.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
Attention = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From query, key and value ``(.., heads, n or m, D)`` to the attended values and the logarithms of the sums."""
host, card = torch.ops.simulated_cuda.host_view, torch.ops.simulated_cuda.to_card
OUTSIDE = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
"""What torch does to calls outside of kernels: within one, nothing is recorded for autograd."""


def require(condition: bool, message: str) -> None:
    """Raise what a kernel raises that refuses its arguments."""
    if not condition:
        raise RuntimeError(f"{message} (simulated)")


def pull_back(function: Callable[..., Any], inputs: list[Tensor], gradients: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the gradients of tensors of the card, in their types, from those of the function's first results."""
    with torch._C._ForceDispatchKeyGuard(*OUTSIDE), torch.enable_grad():
        own = [host(part).detach().float().requires_grad_() for part in inputs]
        found = function(*own)
        results = found[: len(gradients)] if isinstance(found, tuple) else (found,)
        grads = torch.autograd.grad(results, own, [host(part).float() for part in gradients])
    return [card(grad.to(part.dtype).contiguous()) for grad, part in zip(grads, inputs, strict=True)]


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the attended values ``(.., H, n, D)`` and the logarithm of each sum of weights ``(.., H, n)``."""
    key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.mT * scale + bias
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def visible(queries: int, keys: int, causal: bool, left: int | None = None, right: int | None = None) -> Tensor:
    """Return 0 where a query sees a key and minus infinity elsewhere; the last query is at the last key's place."""
    distance = torch.arange(keys) - torch.arange(keys - queries, keys)[:, None]
    seen, right = torch.ones(queries, keys, dtype=torch.bool), 0 if causal else right
    if right is not None and right >= 0:
        seen &= distance <= right
    if left is not None and left >= 0:
        seen &= -distance <= left
    return torch.zeros(queries, keys).masked_fill_(~seen, -math.inf)


def check_half(query: Tensor, key: Tensor, value: Tensor) -> None:
    """What FlashAttention demands of devices, types, strides and widths."""
    require(query.is_cuda and key.is_cuda and value.is_cuda, "input must be on CUDA")
    require(query.dtype in HALF, f"FlashAttention only support fp16 and bf16 data type, not {query.dtype}")
    require(query.dtype == key.dtype == value.dtype, "query, key and value must have the same dtype")
    require(query.stride(-1) == key.stride(-1) == value.stride(-1) == 1, "the last dimension must be contiguous")
    require(query.shape[-1] % 8 == 0 and query.shape[-1] <= 256, "head dimension must be a multiple of 8 up to 256")


def by_segment(
    query: Tensor, key: Tensor, value: Tensor, bounds: tuple[Tensor, Tensor], longest: tuple[int, int], causal: bool,
    scale: float | None, left: int | None, right: int | None,
) -> Attention:  # fmt: skip
    """Check what the kernel of variable lengths demands; return the attention of its segments, heads first."""
    check_half(query, key, value)
    require(key.shape == value.shape, "key and value must have the same shape")
    require(query.shape[1] % key.shape[1] == 0, "the number of heads must be a multiple of the key heads")
    for own in bounds:
        require(own.is_cuda and own.dtype == torch.int32, f"cu_seqlens must have dtype int32 on CUDA, not {own.dtype}")
        require(own.is_contiguous(), "cu_seqlens must be contiguous")
    ends, key_ends = (host(own).tolist() for own in bounds)
    require([ends[-1], key_ends[-1]] == [len(query), len(key)], "cu_seqlens must end at the last token")
    spans = [(slice(*ends[at : at + 2]), slice(*key_ends[at : at + 2])) for at in range(len(ends) - 1)]
    sizes = [(own.stop - own.start, seen.stop - seen.start) for own, seen in spans]
    require(all(n <= longest[0] and m <= longest[1] for n, m in sizes), "a segment is longer than max_q or max_k")
    scale = scale or query.shape[-1] ** -0.5

    def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        parts = [
            attend(query[:, own], key[:, seen], value[:, seen], visible(*size, causal, left, right), scale)
            for (own, seen), size in zip(spans, sizes, strict=True)
        ]
        out, lse = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return out.transpose(0, 1), lse

    return attention


def varlen(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor, max_q: int, max_k: int,
    dropout: float, causal: bool, debug: bool, *, scale: float | None = None, window_size_left: int | None = None,
    window_size_right: int | None = None, **others: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``_flash_attention_forward`` of ``(T, H, D)``."""
    require(dropout == 0.0 and all(other is None for other in others.values()), "dropout and paging are not simulated")
    parts, bounds = (query, key, value), (query_bounds, key_bounds)
    window = window_size_left, window_size_right
    attention = by_segment(*parts, bounds, (max_q, max_k), causal, scale, *window)
    out, lse = attention(*(host(part).float() for part in parts))
    out, state = out.to(query.dtype).contiguous(), torch.zeros(2, dtype=torch.uint64)
    return card(out), card(lse), card(state), card(state[:1].clone()), card(out.new_empty(0))


def varlen_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, query_bounds: Tensor,
    key_bounds: Tensor, max_q: int, max_k: int, dropout: float, causal: bool, state: Tensor, unused: Tensor, *,
    scale: float | None = None, window_size_left: int | None = None, window_size_right: int | None = None,
) -> list[Tensor]:  # fmt: skip
    """``_flash_attention_backward`` of ``(T, H, D)``."""
    require(gradient.is_cuda and gradient.dtype == out.dtype == query.dtype, "the gradient must be as the query")
    require(lse.dtype == torch.float32 and lse.shape == query.shape[1::-1], "lse must be (H, T) in float32")
    parts, bounds = [query, key, value], (query_bounds, key_bounds)
    window = window_size_left, window_size_right
    return pull_back(by_segment(*parts, bounds, (max_q, max_k), causal, scale, *window), parts, (gradient,))


def dense(query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> Attention:
    """Return scaled_dot_product_attention of ``(B, H, n, D)``; its output is laid out as ``(B, n, H, D)``."""
    require(not causal or query.shape[-2] == key.shape[-2], "causal attention of unequal lengths is not simulated")
    require(query.dtype == key.dtype, "query, key and value must have the same dtype")
    require(bias is None or bias.dtype == query.dtype, "invalid dtype for bias - should match query's dtype")
    added = visible(query.shape[-2], key.shape[-2], causal)
    added = added if bias is None else added + host(bias).float()
    scale = scale or query.shape[-1] ** -0.5

    def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = attend(query, key, value, added, scale)
        return out.transpose(1, 2).contiguous().transpose(1, 2), lse

    return attention


def dense_flash(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, causal: bool = False, debug: bool = False, *,
    scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """``_scaled_dot_product_flash_attention``."""
    check_half(query, key, value)
    out, lse = dense(query, key, None, causal, scale)(*(host(part).float() for part in (query, key, value)))
    out, none = card(out.to(query.dtype)), [card(torch.zeros(2, dtype=torch.uint64)) for _ in range(4)]
    return out, card(lse), *none[:2], query.shape[2], key.shape[2], *none[2:], out.new_empty(0)


def dense_flash_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *others: Any,
    scale: float | None = None,
) -> list[Tensor]:  # fmt: skip
    """``_scaled_dot_product_flash_attention_backward``; the sixth of the others is ``is_causal``."""
    return pull_back(dense(query, key, None, others[5], scale), [query, key, value], (gradient,))


def efficient(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, with_lse: bool, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``_scaled_dot_product_efficient_attention``."""
    require(query.shape[1] == key.shape[1], "the memory-efficient kernel shares no heads")
    out, lse = dense(query, key, bias, causal, scale)(*(host(part).float() for part in (query, key, value)))
    seeds = [card(torch.zeros((), dtype=torch.int64)) for _ in range(2)]
    return card(out.to(query.dtype)), card(lse), *seeds


def efficient_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, out: Tensor, lse: Tensor,
    seed: Tensor, offset: Tensor, dropout: float, wanted: list[bool], causal: bool = False, *,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """``_scaled_dot_product_efficient_attention_backward``."""
    require(not wanted[3], "the gradient of a bias is not simulated")
    return *pull_back(dense(query, key, bias, causal, scale), [query, key, value], (gradient,)), None


class _Flex(torch.autograd.Function):
    """Attention whose scores a function changes; like the compiled kernel it keeps no scores."""

    @staticmethod
    def forward(ctx: Any, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(query, key, value)
        ctx.attention = attention
        out, lse = attention(*(host(part.detach()).float() for part in (query, key, value)))
        return card(out.to(query.dtype)), card(lse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *pull_back(ctx.attention, list(ctx.saved_tensors), gradients)


def flex(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Callable[..., Tensor] | None = None, block_mask: Any = None,
    scale: float | None = None, enable_gqa: bool = False, kernel_options: Any = None, *, return_aux: Any = None,
) -> Any:  # fmt: skip
    """``flex_attention`` of ``(B, H, n, D)``, compiled."""
    heads, shared = query.shape[1], key.shape[1]
    require(query.dtype == key.dtype == value.dtype, "Expected query, key, and value to have the same dtype")
    require(heads == shared or enable_gqa, "Expect query and key/value to have the same number of heads")
    require((heads // shared).bit_count() == 1, "the number of query heads of a key head must be a power of two")
    require(query.shape[-1] >= 16, "heads must be 16 wide or wider")
    require(block_mask.kv_num_blocks.device == query.device, "the block mask must be on the query's device")
    require(block_mask.seq_lengths == (query.shape[2], key.shape[2]), "the block mask is of another length")
    batch, head, at, seen = (
        torch.arange(size).view([-1 if place == axis else 1 for place in range(4)])
        for axis, size in enumerate((*query.shape[:3], key.shape[2]))
    )
    # A copy: kernels evaluate the mask in place, so nothing of its size stays on the card until the backward pass.
    visible = host(block_mask.mask_mod(*(card(index.clone()) for index in (batch, head, at, seen)))).clone()
    scale = scale or query.shape[-1] ** -0.5

    def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (part.repeat_interleave(heads // shared, 1) for part in (key, value))
        scores = query @ key.mT * scale
        scores = scores if score_mod is None else score_mod(scores, batch, head, at, seen)
        scores = scores.masked_fill(~visible, -math.inf)
        return scores.softmax(-1) @ value, scores.logsumexp(-1)

    out, lse = _Flex.apply(attention, query, key, value)
    return out if return_aux is None else (out, torch.nn.attention.flex_attention.AuxOutput(lse=lse))


def rms(states: Tensor, shape: list[int], weight: Tensor | None, epsilon: float | None) -> tuple[Tensor, Tensor]:
    """``_fused_rms_norm``: computed in float32, returned in the type of the states."""
    require(weight is None or weight.dtype == states.dtype, "weight and states must have the same dtype")
    x = host(states).float()
    epsilon = torch.finfo(states.dtype).eps if epsilon is None else epsilon
    factor = (x.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + epsilon).rsqrt()
    y = x * factor if weight is None else x * factor * host(weight).float()
    return card(y.to(states.dtype)), card(factor)


def rms_backward(
    gradient: Tensor, states: Tensor, shape: list[int], factor: Tensor, weight: Tensor | None, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """``_fused_rms_norm_backward``."""
    x, g, over = host(states).float(), host(gradient).float(), tuple(range(-len(shape), 0))
    y = x * host(factor)
    inner = g if weight is None else g * host(weight).float()
    of_states = host(factor) * (inner - y * (inner * y).mean(over, keepdim=True))
    of_weight = None
    if weight is not None and wanted[1]:
        of_weight = card((g * y).flatten(0, -1 - len(shape)).sum(0).to(weight.dtype))
    return card(of_states.to(states.dtype)) if wanted[0] else None, of_weight


def softmax(states: Tensor, dim: int, to_float: bool) -> Tensor:
    """``_softmax``: of half precision in float32, which the CPU's kernel refuses."""
    return card(host(states).softmax(dim, torch.float32 if to_float else None))


def log_softmax(states: Tensor, dim: int, to_float: bool) -> Tensor:
    """``_log_softmax``."""
    return card(host(states).log_softmax(dim, torch.float32 if to_float else None))


def softmax_backward(gradient: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """``_softmax_backward_data``."""
    g, p = host(gradient).float(), host(out).float()
    return card((p * (g - (g * p).sum(dim, keepdim=True))).to(dtype))


def log_softmax_backward(gradient: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """``_log_softmax_backward_data``."""
    g = host(gradient).float()
    return card((g - host(out).float().exp() * g.sum(dim, keepdim=True)).to(dtype))


def histc(values: Tensor, bins: int = 100, low: float = 0, high: float = 0) -> Tensor:
    """``histc``: also of integers, which the CPU's kernel refuses."""
    return card(torch.histc(host(values).float(), bins, low, high).to(values.dtype))


KERNELS = {
    "_flash_attention_forward": varlen,
    "_flash_attention_backward": varlen_backward,
    "_scaled_dot_product_flash_attention": dense_flash,
    "_scaled_dot_product_flash_attention_backward": dense_flash_backward,
    "_scaled_dot_product_efficient_attention": efficient,
    "_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "_fused_rms_norm": rms,
    "_fused_rms_norm_backward": rms_backward,
    "_softmax": softmax,
    "_log_softmax": log_softmax,
    "_softmax_backward_data": softmax_backward,
    "_log_softmax_backward_data": log_softmax_backward,
    "histc": histc,
}
