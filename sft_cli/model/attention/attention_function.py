"""The attention function of packed rows, and the one that makes no mask for it.

Shapes: T tokens of the row, H query heads, K key/value heads, D width of a head.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sft_cli.batching.packed_row import Documents
from sft_cli.model.attention.flex import flexible, has_flex_kernel
from sft_cli.model.attention.kernels import Rule, by_length, has_varlen_kernel, varlen

HARMLESS = {
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
"""Arguments that models hand to attention functions and that do not change what is computed."""


class CannotPack(Exception):
    """The model asks for attention that the packed function does not compute."""


@dataclass
class Windows:
    """Sliding windows seen during one forward: those the masks were asked for, those the attention was told."""

    masked: set[int] = field(default_factory=set)
    attended: set[int] = field(default_factory=set)


watched: ContextVar[Windows | None] = ContextVar("sft_windows", default=None)


def no_mask(
    *, attention_mask: Tensor | None = None, use_vmap: bool = False, local_size: int | None = None, **_: Any
) -> None:
    """No mask: the documents' bounds replace it. Anything beyond a causal or sliding mask is refused."""
    if attention_mask is not None:
        raise CannotPack("an attention mask was given beside the bounds of the documents")
    if use_vmap:
        raise CannotPack("the model's attention mask is neither causal nor a sliding window")
    # A span of nothing is made beside the full masks of families that can have windows, and no layer uses it.
    if (seen := watched.get()) is not None and local_size:
        seen.masked.add(local_size)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sft_documents: Documents | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **unknown: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment's tokens to itself and to the segments it continues.

    Args:
        module: The attention layer that calls.
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``; H is a multiple of K.
        value: ``(1, K, T, D)``.
        attention_mask: Must be None.
        sft_documents: What lies where in the row.
        scaling: Factor on the scores; None takes ``D ** -0.5``.
        sliding_window: Each token sees itself and ``sliding_window - 1`` tokens before it.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        dropout: Probability of dropping an attention weight.
        s_aux: ``(H,)`` sinks: scores of a key without a value that every query of a head sees.
        is_causal: Must not be False.
        unknown: Refused unless they change nothing.

    Returns:
        ``(1, T, H, D)`` and None for the attention weights.
    """
    causal = vars(module).get("is_causal", True) if is_causal is None else is_causal
    strange = sorted(name for name, given in unknown.items() if name not in HARMLESS and given is not None)
    if strange or not causal or attention_mask is not None or sft_documents is None:
        asked = ", ".join(strange) if strange else "a mask, no document bounds or attention to later tokens"
        raise CannotPack(f"its attention asks for {asked}")
    if key.shape[2] != query.shape[2]:
        raise CannotPack("keys come from a cache")
    if (seen := watched.get()) is not None and sliding_window is not None:
        seen.attended.add(sliding_window)
    window = sliding_window if sliding_window is not None and sliding_window < max(sft_documents.key_lengths) else None
    rule = Rule(scaling, window, softcap, dropout, s_aux)
    query, key, value = computed(query), computed(key), computed(value)
    if rule.plain and dropout == 0.0 and has_varlen_kernel(query, value):
        return varlen(query, key, value, sft_documents, rule), None
    if has_flex_kernel(query, rule):
        return flexible(query, key, value, sft_documents, rule), None
    return by_length(query, key, value, sft_documents, rule), None


def computed(state: Tensor) -> Tensor:
    """The state in the type that autocast computes in: rotary embeddings leave queries and keys in float32."""
    kind = state.device.type
    return state.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else state
