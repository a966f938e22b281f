"""Packed attention by torch's compiled flex attention on CUDA: soft-caps, sinks, head widths without a fused kernel.

Shapes: T tokens of the row, S segments, H query heads, K key/value heads, D width of a head.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sft_cli.batching.packed_row import PackedRow
from sft_cli.model.attention.kernels import AttentionSpec

_block_masks: WeakKeyDictionary[PackedRow, dict[int | None, Any]] = WeakKeyDictionary()
"""The block masks of each row in use, by window: every layer and every pass uses the same."""


def has_flex_kernel(query: Tensor, spec: AttentionSpec) -> bool:
    """Return whether torch can compile this: CUDA with Triton, half precision, heads from 16, no dropout of weights."""
    fits = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] >= 16
    return fits and spec.dropout == 0.0 and find_spec("triton") is not None


def packed_flex_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, spec: AttentionSpec) -> Tensor:
    """Compute all segments at once; return ``(1, T, H, D)``.

    A sink is applied afterwards: the weights of the other keys are ``exp(score) / (exp(lse) + exp(sink))``, that is
    those without a sink times ``sigmoid(lse - sink)``, where ``lse`` is the logarithm of the sum of all ``exp(score)``.

    Args:
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``.
        value: ``(1, K, T, D)``.
        row: The segments of the row.
        spec: How scores become weights.
    """
    from torch.nn.attention.flex_attention import AuxRequest

    heads = query.shape[1]
    # The kernel shares key heads only among a power of two of them.
    if heads & (heads - 1) and key.shape[1] != heads:
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    attended, auxiliary = _flex_kernel(query.is_cuda)(
        query,
        key,
        value,
        score_mod=_softcap_score_mod(spec.softcap),
        block_mask=block_mask(row, spec.window, query.device),
        scale=spec.scaling,
        enable_gqa=key.shape[1] != heads,
        return_aux=AuxRequest(lse=True),
    )
    if spec.sinks is not None:
        share = torch.sigmoid(auxiliary.lse - spec.sinks.float().view(1, -1, 1))
        attended = (attended * share.unsqueeze(-1)).to(attended.dtype)
    return attended.transpose(1, 2)


@lru_cache(maxsize=2)
def _flex_kernel(compiled: bool) -> Callable[..., Any]:
    """Return flex attention; without compilation it is slow, and on a CPU it has no gradient."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


@lru_cache(maxsize=8)
def _softcap_score_mod(softcap: float | None) -> Callable[..., Tensor] | None:
    """Return the score_mod of a soft-cap; the same function for the same number, so that it is compiled once."""
    if softcap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def block_mask(row: PackedRow, window: int | None, device: torch.device) -> Any:
    """Return the blocks of ``(T, T)`` in which a query sees a key, cached by row and window."""
    from torch.nn.attention.flex_attention import create_block_mask

    masks = _block_masks.setdefault(row, {})
    if window not in masks:
        tokens = sum(row.lengths)
        masks[window] = create_block_mask(
            document_mask_mod(row, window, device), None, None, tokens, tokens, device=str(device)
        )
    return masks[window]


def document_mask_mod(row: PackedRow, window: int | None, device: torch.device) -> Callable[..., Tensor]:
    """Return the mask_mod: a query sees keys of its segment and its ancestors, not later, not before the window.

    Query and key are indices in the row. Nothing waits for the device: all values come from bounds that are on it
    already, or from Python numbers.
    """
    segments = len(row.lengths)
    tokens = torch.arange(sum(row.lengths), device=device)
    segment = torch.bucketize(tokens, row.cu_queries[1:].to(device), right=True)  # (T,)
    above = torch.zeros(segments, segments, dtype=torch.bool)
    for own in range(segments):
        above[own, [*row.ancestors(own), own]] = True
    sees = above.to(device, non_blocking=True)  # (S, S): whose queries, whose keys
    starts = [keys - own for own, keys in zip(row.lengths, row.key_lengths, strict=True)]
    first = torch.tensor(starts).to(device, non_blocking=True)
    position = tokens - row.cu_queries.to(device)[segment] + first[segment]  # (T,)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return whether a query attends to a key."""
        near = position[key] <= position[query]
        if window is not None:
            near = near & (position[query] - position[key] < window)
        return sees[segment[query], segment[key]] & near

    return seen
