"""Packed attention by torch's compiled flex attention on CUDA: soft-caps, sinks, head widths without a fused kernel.

Shapes: T tokens of the row, S segments, H query heads, K key/value heads, D width of a head.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sft_cli.batching.packed_row import PackedRow
from sft_cli.errors import SftError
from sft_cli.model.attention.kernels import AttentionSpec

MAX_VARIANTS = 32
"""Limit of compilations of one kernel: for rows of one block and of several, and for layers with other head widths."""
LARGE_SHARED_MEMORY = 160 * 1024
"""Shared memory of a block, in bytes, from which torch's own block sizes fit: A100 has 163 KiB, H100 227 KiB. Cards for
workstations have 99 KiB. There torch 2.13 needs 129 KiB for heads of width 128, 105 KiB for keys of 192 with values of
128, and 153 KiB for 256; with ``kernel_options`` 97 KiB, 88 KiB and 64 KiB, and 88 KiB for 192 (Triton 3.7)."""
SEGMENT_STEP = 8
"""The table of segments is padded to a multiple of this number, because torch compiles again for a size of one."""

_block_masks: WeakKeyDictionary[PackedRow, dict[int | None, Any]] = WeakKeyDictionary()
"""The block masks of each row in use, by window, shared by all layers and passes."""


def has_flex_kernel(query: Tensor, spec: AttentionSpec) -> bool:
    """Return whether torch can compile flex attention for these arguments on the card.

    It needs Triton, sm_80 or newer, half precision, heads of width 16 or more, no dropout, and more than one token.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    fits = query.shape[-1] >= 16 and query.shape[2] > 1 and spec.dropout == 0.0
    return fits and find_spec("triton") is not None and torch.cuda.get_device_capability(query.device) >= (8, 0)


def packed_flex_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, spec: AttentionSpec) -> Tensor:
    """Compute the attention of all segments at once and return ``(1, T, H, D)``.

    A sink is applied afterwards: with it the weights of the keys are ``exp(score) / (exp(lse) + exp(sink))``, which are
    the weights without it times ``sigmoid(lse - sink)``, where ``lse`` is the logarithm of the sum of ``exp(score)``.

    Args:
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``.
        value: ``(1, K, T, D)``.
        row: The segments of the row.
        spec: The computation of weights from scores.

    Raises:
        SftError: torch cannot compile the kernel for this card.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    heads = query.shape[1]
    # The kernel shares key heads only if the number of query heads is a power of two.
    if heads & (heads - 1) and key.shape[1] != heads:
        key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    compiled = query.is_cuda  # only tests run it on a CPU, where it is slow and has no gradient
    kernel: Callable[..., Any] = flex_attention
    if compiled:
        kernel = flex_kernel(torch.is_grad_enabled(), spec.window, spec.softcap)
    try:
        attended, auxiliary = kernel(
            query,
            key,
            value,
            score_mod=_softcap_score_mod(spec.softcap),
            block_mask=block_mask(row, spec.window, query.device),
            scale=spec.scaling,
            enable_gqa=key.shape[1] != heads,
            return_aux=AuxRequest(lse=True),
            kernel_options=_card_options(query, value) if compiled else None,
        )
    except TorchDynamoException as error:
        raise flex_compile_error(error) from error
    if spec.sinks is not None:
        non_sink_weight = torch.sigmoid(auxiliary.lse - spec.sinks.float().view(1, -1, 1))
        attended = (attended * non_sink_weight.unsqueeze(-1)).to(attended.dtype)
    return attended.transpose(1, 2)


def flex_compile_error(error: Exception) -> SftError:
    """Return the error for a model whose attention torch cannot compile, with torch's reason."""
    cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return SftError(
        where="speed.packing",
        problem=f"torch cannot compile the attention of packed rows for this card: {cause}",
        fix="speed.packing=false",
    )


@lru_cache(maxsize=64)
def flex_kernel(grad: bool, window: int | None, softcap: float | None) -> Callable[..., Any]:
    """Return flex attention compiled for rows of any length, cached by the arguments.

    torch counts compilations by code object, and all kinds of layers together would exceed its limit. So each kind has
    its own code object. Beyond the limit torch would compute ``(H, T, T)`` scores: ``fullgraph`` makes it an error.

    Args:
        grad: Whether gradients are enabled: torch compiles again if they are not.
        window: The sliding window of the layer.
        softcap: The soft-cap of the layer.
    """
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import flex_attention

    config.recompile_limit = max(config.recompile_limit, MAX_VARIANTS)
    # The kernel refuses the scale and the soft-cap as tensors, which torch would make of floats that it does not fix.
    config.specialize_float = True

    def attend(*states: Any, **options: Any) -> Any:
        return flex_attention(*states, **options)

    function = FunctionType(attend.__code__.replace(), attend.__globals__, "flex_kernel", None, attend.__closure__)
    return torch.compile(function, fullgraph=True, dynamic=True)


def _card_options(query: Tensor, value: Tensor) -> dict[str, int | bool]:
    """Return the options for these heads on their card."""
    card = torch.cuda.get_device_properties(query.device)
    return kernel_options(query.shape[-1], value.shape[-1], card.shared_memory_per_block_optin)


@lru_cache(maxsize=64)
def kernel_options(width: int, value_width: int, shared_memory: int) -> dict[str, int | bool]:
    """Return options for the kernel: sizes of blocks and numbers of stages that fit into the shared memory of the card.

    ``FORCE_USE_FLEX_ATTENTION`` is set because torch has another kernel for rows under 128 tokens, which does not
    compile for most numbers of heads and tokens.

    Args:
        width: Width of the heads of query and key.
        value_width: Width of the heads of the value.
        shared_memory: Bytes of shared memory that a block may use, ``shared_memory_per_block_optin``.
    """
    options: dict[str, int | bool] = {"FORCE_USE_FLEX_ATTENTION": True}
    # The kernel computes with the next powers of two.
    padded = sum(1 << (size - 1).bit_length() for size in (width, value_width))
    if shared_memory < LARGE_SHARED_MEMORY and padded > 2 * 64:
        stages = 2 if padded <= 2 * 128 else 1
        options |= {"fwd_num_stages": stages, "bwd_num_stages": stages}
    if shared_memory < LARGE_SHARED_MEMORY and padded > 256 + 128:
        options |= {f"bwd_BLOCK_{side}": 32 for side in ("M1", "N1", "M2", "N2")}
    return options


@lru_cache(maxsize=8)
def _softcap_score_mod(softcap: float | None) -> Callable[..., Tensor] | None:
    """Return the score_mod of a soft-cap; cached, so that torch compiles it once."""
    if softcap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def block_mask(row: PackedRow, window: int | None, device: torch.device) -> Any:
    """Return the blocks of ``(T, T)`` in which a query attends to a key, cached by row and window."""
    from torch.nn.attention.flex_attention import create_block_mask

    masks = _block_masks.setdefault(row, {})
    if window not in masks:
        tokens = sum(row.lengths)
        masks[window] = create_block_mask(
            document_mask_mod(row, window, device), None, None, tokens, tokens, device=str(device)
        )
    return masks[window]


def document_mask_mod(row: PackedRow, window: int | None, device: torch.device) -> Callable[..., Tensor]:
    """Return the mask_mod: a query attends to keys of its segment and its ancestors up to itself, within the window.

    Query and key are indices in the row. Nothing synchronizes with the device: all values come from bounds that are
    already on it, or from Python numbers.
    """
    segments = len(row.lengths)
    tokens = torch.arange(sum(row.lengths), device=device)
    segment = torch.bucketize(tokens, row.cu_queries[1:].to(device), right=True)  # (T,)
    padded = -(-segments // SEGMENT_STEP) * SEGMENT_STEP
    visible = torch.zeros(padded, padded, dtype=torch.bool)
    for segment_index in range(segments):
        visible[segment_index, [*row.ancestors(segment_index), segment_index]] = True
    visible_on_device = visible.to(device, non_blocking=True)  # (segment of the query, segment of the key)
    starts = [keys - segment_index for segment_index, keys in zip(row.lengths, row.key_lengths, strict=True)]
    first = torch.tensor(starts).to(device, non_blocking=True)
    position = tokens - row.cu_queries.to(device)[segment] + first[segment]  # (T,)

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return whether a query attends to a key."""
        in_reach = position[key] <= position[query]
        if window is not None:
            in_reach = in_reach & (position[query] - position[key] < window)
        return visible_on_device[segment[query], segment[key]] & in_reach

    return is_visible
