"""Attention of packed segments with one call per segment length, on any device.

The queries of a segment are its own tokens; its keys are those of its ancestors and its own (``PackedRow``).

Shapes: T tokens of the row, H query heads, K key/value heads, D width of a head; G segments of equal size with n
queries and m keys each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sft_cli.batching.packed_row import PackedRow

MAX_MATMUL_KEYS = {torch.float32: 256, torch.bfloat16: 512, torch.float16: 512}
"""Number of keys up to which matrix products and a softmax are faster than torch's flash kernel on a CPU.

Milliseconds forward and backward, 8 heads of width 64, torch 2.13 on one Zen 5 core, products / flash kernel.
bfloat16: 0.7 / 2.4 at 128 tokens, 1.8 / 5.2 at 256, 6.4 / 18 at 512, 26 / 46 at 1024 (on two cores 17 / 13 at 768);
eight documents of 16 tokens in one call 0.4 / 2.8. float32: 1.2 / 1.4 at 128, 4.6 / 5.1 at 256, 21 / 21 at 512,
118 / 61 at 1024; below the ``highest`` ``float32_matmul_precision`` 0.9 / 3.5 at 128, 4.3 / 5.5 at 256, 23 / 17 at
512."""
MAX_CACHED_MASK = 2048
"""Size of the largest mask that is cached: 16 MB in float32."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The computation of attention weights from scores.

    Attributes:
        scaling: Factor on the scores; None means ``D ** -0.5``.
        window: Each token attends to itself and ``window - 1`` tokens before it; None: to all before it.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        dropout: Probability of dropping a weight.
        sinks: ``(H,)`` scores of a key without a value that every query of a head attends to.
    """

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    sinks: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the weights are a softmax of the scores alone, as in fused kernels."""
        return self.softcap is None and self.sinks is None


def attention_by_length(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, spec: AttentionSpec) -> Tensor:
    """Compute the attention with one call for all segments of equal length and key length; return ``(1, T, H, D)``.

    Args:
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``.
        value: ``(1, K, T, D)``.
        row: The segments of the row.
        spec: The computation of weights from scores.
    """
    # split instead of slices: the gradient of each slice would be a whole row of zeros.
    queries, keys, values = (part[0].split(row.lengths, dim=1) for part in (query, key, value))
    attended: dict[int, Tensor] = {}
    for chains in row.size_groups:
        own_queries = concat_chains([(chain[-1],) for chain in chains], queries)
        group = causal_attention(own_queries, concat_chains(chains, keys), concat_chains(chains, values), spec)
        for chain, part in zip(chains, group.permute(1, 2, 0, 3).unbind(0), strict=True):
            attended[chain[-1]] = part
    return torch.cat([attended[segment] for segment in range(len(row.lengths))]).unsqueeze(0)


def concat_chains(chains: Sequence[Sequence[int]], segments: Sequence[Tensor]) -> Tensor:
    """Concatenate the segments ``(heads, own length, D)`` of each chain; return ``(heads, G, length, D)``."""
    parts = [segments[segment] for chain in chains for segment in chain]
    joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    return joined.unflatten(1, (len(chains), -1))


def causal_attention(query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec) -> Tensor:
    """Compute causal attention in which the last query attends to every key; return ``(H, G, n, D)``.

    Args:
        query: ``(H, G, n, D)``.
        key: ``(K, G, m, D)``; H is a multiple of K, m at least n.
        value: ``(K, G, m, D)``.
        spec: The computation of weights from scores.
    """
    on_cpu, keys = query.device.type == "cpu", key.shape[2]
    window = spec.window if spec.window is not None and spec.window < keys else None
    if not spec.is_plain or (on_cpu and keys <= MAX_MATMUL_KEYS.get(query.dtype, 0)):
        return attention_by_matmul(query, key, value, spec)
    # On a CPU sharing heads inside the kernel is faster; CUDA's float32 kernels cannot.
    if not on_cpu and key.shape[0] != query.shape[0]:
        group = query.shape[0] // key.shape[0]
        key, value = key.repeat_interleave(group, dim=0), value.repeat_interleave(group, dim=0)
    query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    causal = window is None and query.shape[2] == keys
    mask = None if causal else causal_mask(query.shape[2], keys, window, query.dtype, query.device)
    return scaled_dot_product_attention(
        query, key, value, mask, spec.dropout, is_causal=causal, scale=spec.scaling, enable_gqa=on_cpu
    ).transpose(0, 1)


def attention_by_matmul(query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec) -> Tensor:
    """Compute ``causal_attention`` by two matrix products and a softmax; query heads of a key head form one matrix."""
    heads, count, length, width = query.shape
    key_heads, keys = key.shape[0], key.shape[2]
    group = heads // key_heads
    scaling = width**-0.5 if spec.scaling is None else spec.scaling
    mask = causal_mask(length, keys, spec.window, query.dtype, query.device)
    mask = mask if group == 1 else mask.repeat(group, 1)  # (group * n, m)
    query = query.unflatten(0, (key_heads, group)).transpose(1, 2).reshape(key_heads * count, group * length, width)
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    if spec.softcap is None:
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling)
    else:
        scores = spec.softcap * torch.tanh(query @ key.transpose(1, 2) * (scaling / spec.softcap)) + mask
    if spec.sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        sinks = spec.sinks.to(scores.dtype).view(key_heads, 1, group, 1).expand(key_heads, count, group, length)
        with_sink = torch.cat([scores, sinks.reshape(key_heads * count, group * length, 1)], dim=-1)
        weights = torch.softmax(with_sink, dim=-1).split([keys, 1], dim=-1)[0]
    attended = torch.bmm(nn.functional.dropout(weights, p=spec.dropout).to(value.dtype), value)
    return attended.view(key_heads, count, group, length, -1).transpose(1, 2).flatten(0, 1)


def causal_mask(queries: int, keys: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(queries, keys)``: 0 for visible keys and -inf for others; the last key is visible to the last query.

    A mask is the last rows of a square one, which is cached up to ``MAX_CACHED_MASK``.
    """
    if keys > MAX_CACHED_MASK:
        return _make_causal_mask(queries, keys, window, dtype, device)
    size = max(64, 1 << (keys - 1).bit_length())
    return _square_mask(size, window, dtype, device)[keys - queries : keys, :keys]


@lru_cache(maxsize=16)
def _square_mask(size: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask ``(size, size)`` for as many queries as keys."""
    return _make_causal_mask(size, size, window, dtype, device)


def clear_mask_cache() -> None:
    """Remove all cached masks; those created from fake tensors have no contents."""
    _square_mask.cache_clear()


def _make_causal_mask(queries: int, keys: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Build the mask of ``causal_mask``."""
    # A mask created in inference mode could not be used in training.
    with torch.inference_mode(False):
        index = torch.arange(keys, device=device)
        distance = index[keys - queries :, None] - index
        seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return torch.zeros(queries, keys, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
