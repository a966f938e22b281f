"""What computes the attention of packed documents: torch's kernel for all of them, or one call per document.

Shapes: T tokens of the row, H query heads, K key/value heads, D width of a head.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def has_varlen_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether torch's variable-length flash attention takes these: CUDA from sm_80, half precision, heads to 256."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    fits = width == value.shape[-1] and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """``(1, T, H, D)`` from torch's own kernel, all documents at once."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    # The kernel counts the tokens *before* the query; transformers' window includes the query itself.
    left = -1 if window is None else window - 1
    # torch 2.11 shares key heads without being told, and does not know the argument.
    shared: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    attended = varlen_attn(
        query, key, value, bounds, bounds, longest, longest, scale=scaling, window_size=(left, 0), **shared
    )
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)


def one_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """``(1, H, length, D)``: causal attention of a document with itself; key and value are ``(1, K, length, D)``."""
    length = query.shape[2]
    # On a CPU sharing heads inside the kernel is faster; CUDA's float32 kernels cannot.
    shares = query.device.type == "cpu" and softcap is None
    if key.shape[1] != query.shape[1] and not shares:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    band = None
    if window is not None and window < length:
        distance = torch.arange(length, device=query.device)
        distance = distance[:, None] - distance[None, :]
        band = (distance >= 0) & (distance < window)  # (query, key)
    if softcap is None:
        causal = band is None
        return scaled_dot_product_attention(
            query, key, value, band, dropout, is_causal=causal, scale=scaling, enable_gqa=shares
        )
    visible = band if band is not None else torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~visible, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return nn.functional.dropout(weights, p=dropout) @ value
