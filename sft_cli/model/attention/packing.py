"""Switch a model to packed attention and back, and build the arguments of packed rows.

One function is registered with transformers' ``AttentionInterface``; no model code changes. It has no mask function, so
transformers creates no masks and does not synchronize with the device to find packed positions. The probe runs the same
attention with a mask function that refuses masks which document bounds cannot replace.
The segments of the row are passed as ``sft_documents`` from ``model.forward`` to every layer, together with the bounds
for FlashAttention. Documents with a common prefix may share its segment, which is then computed once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sft_cli.batching.packed_row import PACKED_ROW_KWARG, PackedRow, pack_row
from sft_cli.model.adapter.prompt_learning import generating_with_vectors
from sft_cli.model.attention.attention_function import PackingUnsupported, no_attention_mask, packed_attention
from sft_cli.model.attention.rotary import install_document_rotary
from sft_cli.model.quant import causal_lm, evaluation_mode

PACKED = "sft_packed"
"""The name of packed attention in transformers."""
CHECKED = "sft_packed_checked"
"""The name of packed attention with a check of the masks that the model requests."""


def register_packed_attention() -> None:
    """Register packed attention with transformers, with and without the check of masks."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionInterface.register(CHECKED, packed_attention)
    AttentionMaskInterface.register(CHECKED, no_attention_mask)


def use_packed_attention(model: nn.Module, *, check_masks: bool = False) -> None:
    """Switch the causal LM inside ``model`` to packed attention; every forward then needs document bounds.

    Args:
        model: A transformers causal LM or a PEFT model around one.
        check_masks: Whether a forward raises PackingUnsupported where the model requests a mask that document bounds
            cannot replace. The check synchronizes with the device in every forward.

    Raises:
        PackingUnsupported: The model's attention cannot be replaced.
    """
    register_packed_attention()
    lm = causal_lm(model)
    name = CHECKED if check_masks else PACKED
    lm.set_attn_implementation(name)
    if lm.config._attn_implementation != name:
        raise PackingUnsupported("its attention cannot be replaced")
    install_document_rotary(model)


def use_default_attention(model: nn.Module) -> None:
    """Switch to the attention that transformers chooses for this family: sdpa if supported, else eager."""
    lm = causal_lm(model)
    lm.set_attn_implementation(lm.get_correct_attn_implementation(None))


@contextmanager
def generation_mode(model: nn.Module) -> Iterator[PreTrainedModel]:
    """Yield the causal LM in evaluation mode with its default attention, which ``generate`` with a cache needs.

    Its ``generate`` prepends the trained vectors that PEFT prepends.
    """
    lm = causal_lm(model)
    packed = lm.config._attn_implementation == PACKED
    if packed:
        use_default_attention(model)
    try:
        with evaluation_mode(model), generating_with_vectors(model):
            yield lm
    finally:
        if packed:
            use_packed_attention(model)


def packed_row_arguments(
    lengths: Sequence[int], device: torch.device, parents: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return the ``model.forward`` arguments of a row with segments of these lengths: positions, bounds, no cache.

    Args:
        lengths: Number of tokens of each segment.
        device: The device of the model.
        parents: The earlier segment that each segment continues, or -1; None: each segment is a document.
    """
    row = pack_row(lengths, parents)
    return {"position_ids": row.positions.to(device), **document_arguments(row.to(device))}


def document_arguments(row: PackedRow) -> dict[str, Any]:
    """Return the segments of a row as packed attention expects them, and their bounds under transformers' names."""
    longest = max(row.lengths)
    bounds = {"cu_seq_lens_q": row.cu_queries, "cu_seq_lens_k": row.cu_queries}
    return {PACKED_ROW_KWARG: row, **bounds, "max_length_q": longest, "max_length_k": longest, "use_cache": False}
