"""Packed attention by torch's variable-length flash attention on CUDA: all segments of a row in one call.

Shapes: T tokens of the row, K keys of all segments together, H query heads, J key/value heads, D width of a head.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sft_cli.batching.packed_row import PackedRow
from sft_cli.model.attention.kernels import AttentionSpec


def has_varlen_kernel(query: Tensor, value: Tensor) -> bool:
    """Return whether torch's kernel supports these states: half precision, sm_80 or newer, head width up to 256."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    fits = width == value.shape[-1] and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def packed_varlen_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, spec: AttentionSpec) -> Tensor:
    """Compute the attention of all segments at once by torch's kernel; needs a plain spec without dropout.

    Returns:
        ``(1, T, H, D)``.
    """
    assert spec.is_plain, "the kernel supports neither soft-caps nor sinks"
    assert spec.dropout == 0.0, "the kernel has no dropout"
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    # The kernel counts the tokens *before* the query; transformers' window includes the query itself. With fewer
    # queries than keys, the kernel aligns the last query with the last key, as segments require.
    left = -1 if spec.window is None else spec.window - 1
    if row.key_positions is None:
        attended = varlen_forward(query, key, value, row, spec.scaling, left)[0]
    else:
        attended = SharedPrefixAttention.apply(query, key, value, row.key_positions, row, spec.scaling, left)
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scaling: float | None, left: int
) -> tuple[Tensor, Tensor]:
    """Run the kernel.

    Args:
        query: ``(T, H, D)``.
        key: ``(K, J, D)``.
        value: ``(K, J, D)``.
        row: The bounds of queries and keys.
        scaling: Factor on the scores; None means ``D ** -0.5``.
        left: Number of keys before the query that it attends to; -1: all.

    Returns:
        The output ``(T, H, D)``, and the log-sum-exp of the scores, which ``varlen_backward`` needs.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    # torch 2.11 always shares key heads and does not have the argument.
    heads: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    bounds = (row.cu_queries, row.cu_keys, max(row.lengths), max(row.key_lengths))
    aux = AuxRequest(lse=True)
    attended, sums = varlen_attn(
        query, key, value, *bounds, return_aux=aux, scale=scaling, window_size=(left, 0), **heads
    )
    return attended, sums


def varlen_backward(
    gradient: Tensor, states: tuple[Tensor, ...], row: PackedRow, scaling: float | None, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel's backward pass.

    Args:
        gradient: ``(T, H, D)``.
        states: Query, key and value of ``varlen_forward``, and its results.
        row: See ``varlen_forward``.
        scaling: See ``varlen_forward``.
        left: See ``varlen_forward``.

    Returns:
        The gradients of query, key and value.
    """
    bounds = (row.cu_queries, row.cu_keys, max(row.lengths), max(row.key_lengths))
    random_state = torch.zeros(2, dtype=torch.uint64, device=gradient.device)  # for dropout, which is not used
    return torch.ops.torch_attn._varlen_attn_backward(
        gradient, *states, *bounds, left == -1, random_state, scaling, [left, 0]
    )


class SharedPrefixAttention(torch.autograd.Function):
    """Attention of a row with shared prefixes, whose keys and values are copied for each segment that sees them.

    The copies are not saved: the backward pass creates them again. Their gradients are added in float32, because sums
    of many terms lose precision in bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_positions: Tensor,
        row: PackedRow,
        scaling: float | None,
        left: int,
    ) -> Tensor:
        """Return ``(T, H, D)``; arguments as in ``varlen_forward``, but keys and values are ``(T, J, D)``."""
        keys, values = (part.index_select(0, key_positions) for part in (key, value))
        attended, sums = varlen_forward(query, keys, values, row, scaling, left)
        ctx.save_for_backward(query, key, value, attended, sums, key_positions)
        ctx.row, ctx.scaling, ctx.left = row, scaling, left
        return attended

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, attended, sums, key_positions = ctx.saved_tensors
        gathered = [part.index_select(0, key_positions) for part in (key, value)]
        states = (query, *gathered, attended, sums)
        into_query, *into_gathered = varlen_backward(gradient, states, ctx.row, ctx.scaling, ctx.left)
        del gathered, states
        into_row = [sum_rows(into_gathered.pop(0), key_positions, len(key)) for _ in range(2)]
        return into_query, *into_row, None, None, None, None


def sum_rows(rows: Tensor, positions: Tensor, length: int) -> Tensor:
    """Return ``(length, …)``: at each position the sum of its rows, added in float32."""
    total = rows.new_zeros((length, *rows.shape[1:]), dtype=torch.float32)
    return total.index_add_(0, positions, rows.float()).to(rows.dtype)
