"""The attention function for packed rows, and its mask function.

Shapes: T tokens of the row, H query heads, K key/value heads, D width of a head.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sft_cli.batching.packed_row import PackedRow
from sft_cli.model.attention.flex import has_flex_kernel, packed_flex_attention
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length
from sft_cli.model.attention.varlen import has_varlen_kernel, packed_varlen_attention
from sft_cli.model.device import compute_dtype

IGNORED_ARGUMENTS = {
    "position_ids",
    "cu_seq_lens_q",
    "max_length_q",
    "cu_seq_lens_k",
    "max_length_k",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
}
"""Arguments that models pass to attention functions and that do not change the result."""


class PackingUnsupported(Exception):
    """The model needs attention that the packed function does not compute."""


@dataclass(frozen=True)
class FlexCall:
    """A call of packed attention that torch compiles.

    Attributes:
        heads: Numbers of heads of query, key and value.
        widths: Widths of those heads.
        dtype: The dtype of query, key and value.
        arguments: Scaling, sliding window and soft-cap, as the layer passed them.
        has_sinks: Whether the layer passed attention sinks.
    """

    heads: tuple[int, int, int]
    widths: tuple[int, int, int]
    dtype: torch.dtype
    arguments: tuple[tuple[str, float | None], ...]
    has_sinks: bool

    @classmethod
    def from_states(
        cls, query: Tensor, key: Tensor, value: Tensor, arguments: Mapping[str, float | None], *, has_sinks: bool
    ) -> "FlexCall":
        """Describe a call by its states ``(1, heads, T, width)``.

        Args:
            query: The query.
            key: The key.
            value: The value.
            arguments: Scaling, sliding window and soft-cap.
            has_sinks: Whether the layer passed attention sinks.
        """
        heads = (query.shape[1], key.shape[1], value.shape[1])
        widths = (query.shape[3], key.shape[3], value.shape[3])
        return cls(heads, widths, query.dtype, tuple(arguments.items()), has_sinks)


@dataclass
class AttentionLog:
    """The masks and attention calls that a forward pass requested.

    Attributes:
        masked: Sliding windows of the requested masks.
        attended: Sliding windows passed to the attention.
        compiled: Attention calls that torch compiles.
    """

    masked: set[int] = field(default_factory=set)
    attended: set[int] = field(default_factory=set)
    compiled: set[FlexCall] = field(default_factory=set)


attention_log: ContextVar[AttentionLog | None] = ContextVar("sft_attention", default=None)


def no_attention_mask(
    *, attention_mask: Tensor | None = None, use_vmap: bool = False, local_size: int | None = None, **_: Any
) -> None:
    """Return no mask, because the document bounds replace it; refuse masks that are neither causal nor sliding."""
    if attention_mask is not None:
        raise PackingUnsupported("an attention mask was given in addition to the document bounds")
    if use_vmap:
        raise PackingUnsupported("the model's attention mask is neither causal nor a sliding window")
    # Families that can have windows also request a mask with window 0, which no layer uses.
    if (log := attention_log.get()) is not None and local_size:
        log.masked.add(local_size)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sft_documents: PackedRow | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **unknown: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention of each segment to itself and the segments that it continues.

    Args:
        module: The calling attention layer.
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``; H is a multiple of K.
        value: ``(1, K, T, D)``.
        attention_mask: Must be None.
        sft_documents: The segments of the row.
        scaling: Factor on the scores; None means ``D ** -0.5``.
        sliding_window: Each token attends to itself and ``sliding_window - 1`` tokens before it.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        dropout: Probability of dropping an attention weight.
        s_aux: ``(H,)`` attention sinks: scores of a key without a value that every query of a head attends to.
        is_causal: Must not be False.
        unknown: Other arguments; refused unless they do not change the result.

    Returns:
        ``(1, T, H, D)`` and None for the attention weights.

    Raises:
        PackingUnsupported: An argument asks for anything else.
    """
    causal = vars(module).get("is_causal", True) if is_causal is None else is_causal
    refused = _changing_arguments(unknown)
    if refused or not causal or attention_mask is not None or sft_documents is None:
        request = ", ".join(refused) or "a mask, no document bounds or attention to later tokens"
        raise PackingUnsupported(f"its attention asks for {request}")
    if key.shape[2] != query.shape[2]:
        raise PackingUnsupported("keys come from a cache")
    if (log := attention_log.get()) is not None and sliding_window is not None:
        log.attended.add(sliding_window)
    window = sliding_window if sliding_window is not None and sliding_window < max(sft_documents.key_lengths) else None
    spec = AttentionSpec(scaling, window, softcap, dropout, s_aux)
    # Rotary embeddings leave queries and keys in float32 under autocast.
    query, key, value = (state.to(compute_dtype(state)) for state in (query, key, value))
    if spec.is_plain and dropout == 0.0 and has_varlen_kernel(query, value):
        return packed_varlen_attention(query, key, value, sft_documents, spec), None
    if has_flex_kernel(query, spec):
        if log is not None:
            settings = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
            log.compiled.add(FlexCall.from_states(query, key, value, settings, has_sinks=s_aux is not None))
        return packed_flex_attention(query, key, value, sft_documents, spec), None
    return attention_by_length(query, key, value, sft_documents, spec), None


def _changing_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of the arguments that may change the result, sorted."""
    return sorted(name for name, value in arguments.items() if name not in IGNORED_ARGUMENTS and value is not None)
