"""Packed attention that no fused kernel computes on CUDA, compiled by torch: soft-caps, sinks, odd head widths.

Shapes: T tokens of the row, S segments, H query heads, K key/value heads, D width of a head.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sft_cli.batching.packed_row import Documents
from sft_cli.model.attention.kernels import Rule

_block_masks: WeakKeyDictionary[Documents, dict[int | None, Any]] = WeakKeyDictionary()
"""The block mask of each row that is in use, by window: every layer of every pass reads the same."""


def has_flex_kernel(query: Tensor, rule: Rule) -> bool:
    """Whether torch compiles this: CUDA with Triton, half precision, heads from 16, no dropout of weights."""
    fits = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] >= 16
    return fits and rule.dropout == 0.0 and find_spec("triton") is not None


def flexible(query: Tensor, key: Tensor, value: Tensor, row: Documents, rule: Rule) -> Tensor:
    """``(1, T, H, D)``: all segments at once.

    A sink takes its share afterwards: the weights beside it are ``exp(score) / (exp(lse) + exp(sink))``, that is those
    without it times ``sigmoid(lse - sink)``, where ``lse`` is the logarithm of the sum of all ``exp(score)``.

    Args:
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``.
        value: ``(1, K, T, D)``.
        row: What lies where.
        rule: How scores become weights.
    """
    from torch.nn.attention.flex_attention import AuxRequest

    heads = query.shape[1]
    # The kernel shares key heads only among a power of two of them.
    if heads & (heads - 1) and key.shape[1] != heads:
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    attended, auxiliary = _kernel(query.is_cuda)(
        query,
        key,
        value,
        score_mod=_capped(rule.softcap),
        block_mask=block_mask(row, rule.window, query.device),
        scale=rule.scaling,
        enable_gqa=key.shape[1] != heads,
        return_aux=AuxRequest(lse=True),
    )
    if rule.sinks is not None:
        share = torch.sigmoid(auxiliary.lse - rule.sinks.float().view(1, -1, 1))
        attended = (attended * share.unsqueeze(-1)).to(attended.dtype)
    return attended.transpose(1, 2)


@lru_cache(maxsize=2)
def _kernel(compiled: bool) -> Callable[..., Any]:
    """Flex attention; without compilation it is slow, and on a CPU it has no gradient."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


@lru_cache(maxsize=8)
def _capped(softcap: float | None) -> Callable[..., Tensor] | None:
    """The change of a score; the same function for the same number, so that it is compiled once."""
    if softcap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def block_mask(row: Documents, window: int | None, device: torch.device) -> Any:
    """The blocks of ``(T, T)`` in which a query sees a key, made once for a row and a window."""
    from torch.nn.attention.flex_attention import create_block_mask

    made = _block_masks.setdefault(row, {})
    if window not in made:
        tokens = sum(row.lengths)
        made[window] = create_block_mask(visible(row, window, device), None, None, tokens, tokens, device=str(device))
    return made[window]


def visible(row: Documents, window: int | None, device: torch.device) -> Callable[..., Tensor]:
    """Whether a query sees a key, both by place in the row: of its segment or one above, not later, not too far back.

    Nothing waits for the device: what depends on the row comes from its bounds there or from Python's numbers.
    """
    segments = len(row.lengths)
    tokens = torch.arange(sum(row.lengths), device=device)
    segment = torch.bucketize(tokens, row.cu_queries[1:].to(device), right=True)  # (T,)
    above = torch.zeros(segments, segments, dtype=torch.bool)
    for own in range(segments):
        above[own, [*row.above(own), own]] = True
    sees = above.to(device, non_blocking=True)  # (S, S): whose queries, whose keys
    starts = [keys - own for own, keys in zip(row.lengths, row.key_lengths, strict=True)]
    first = torch.tensor(starts).to(device, non_blocking=True)
    position = tokens - row.cu_queries.to(device)[segment] + first[segment]  # (T,)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = position[key] <= position[query]
        if window is not None:
            near = near & (position[query] - position[key] < window)
        return sees[segment[query], segment[key]] & near

    return seen
