"""Packed attention: several documents laid end to end in one row, none of which sees another.

One function is registered with transformers' ``AttentionInterface``; no model code changes. The documents' bounds
travel as ``cu_seq_lens_q`` from ``model.forward``, as they do for FlashAttention.

Shapes: T tokens of the row, H query heads, K key/value heads, D width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sft_cli.model.kernels import has_varlen_kernel, one_document, varlen
from sft_cli.model.quant import causal_lm, evaluating

PACKED = "sft_packed"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative logit difference between packed and solo; documents that see each other differ by 0.2 and more.
A tenth of it is what another first document may change in the logits of those behind it: in half precision the two
attention kernels round differently, but a document's logits do not depend on its neighbours at all."""

HARMLESS = {
    "position_ids",
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


@dataclass(frozen=True)
class ProbeResult:
    """Whether several documents may share a row of this model.

    Attributes:
        packed_ok: Packed and solo logits agree.
        difference: Largest absolute logit difference over the largest absolute logit; inf when nothing was computed.
        reason: One clause for the log when they do not agree, else empty.
    """

    packed_ok: bool
    difference: float
    reason: str = ""


@dataclass
class Windows:
    """Sliding windows seen during one forward: those the masks were asked for, those the attention was told."""

    masked: set[int] = field(default_factory=set)
    attended: set[int] = field(default_factory=set)


_windows: ContextVar[Windows | None] = ContextVar("sft_windows", default=None)


def register() -> None:
    """Make ``sft_packed`` known to transformers; doing it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, no_mask)


def no_mask(
    *, attention_mask: Tensor | None = None, use_vmap: bool = False, local_size: int | None = None, **_: Any
) -> None:
    """No mask: the documents' bounds replace it. Anything beyond a causal or sliding mask is refused."""
    if attention_mask is not None:
        raise CannotPack("an attention mask was given beside the bounds of the documents")
    if use_vmap:
        raise CannotPack("the model's attention mask is neither causal nor a sliding window")
    if (seen := _windows.get()) is not None and local_size is not None:
        seen.masked.add(local_size)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **unknown: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document.

    Args:
        module: The attention layer that calls.
        query: ``(1, H, T, D)``.
        key: ``(1, K, T, D)``; H is a multiple of K.
        value: ``(1, K, T, D)``.
        attention_mask: Must be None.
        cu_seq_lens_q: ``(documents + 1,)`` int32, start of each document and T.
        max_length_q: Tokens of the longest document.
        scaling: Factor on the scores; None takes ``D ** -0.5``.
        sliding_window: Each token sees itself and ``sliding_window - 1`` tokens before it.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        dropout: Probability of dropping an attention weight.
        is_causal: Must not be False.
        unknown: Refused unless they change nothing.

    Returns:
        ``(1, T, H, D)`` and None for the attention weights.
    """
    causal = vars(module).get("is_causal", True) if is_causal is None else is_causal
    strange = sorted(name for name, given in unknown.items() if name not in HARMLESS and given is not None)
    if strange or not causal or attention_mask is not None or cu_seq_lens_q is None or max_length_q is None:
        asked = ", ".join(strange) if strange else "a mask, no document bounds or attention to later tokens"
        raise CannotPack(f"its attention asks for {asked}")
    if key.shape[2] != query.shape[2]:
        raise CannotPack("keys come from a cache")
    if (seen := _windows.get()) is not None and sliding_window is not None:
        seen.attended.add(sliding_window)
    window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
    if softcap is None and dropout == 0.0 and has_varlen_kernel(query, value):
        return varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, window), None
    lengths = cu_seq_lens_q.diff().tolist()
    documents = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    attended = [one_document(q, k, v, scaling, window, softcap, dropout) for q, k, v in documents]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def use_packed(model: nn.Module) -> None:
    """Switch the causal LM inside ``model`` to packed attention; every forward then needs document bounds."""
    register()
    lm = causal_lm(model)
    lm.set_attn_implementation(PACKED)
    if lm.config._attn_implementation != PACKED:
        raise CannotPack("its attention cannot be replaced")


def use_own(model: nn.Module) -> None:
    """Switch back to the attention transformers chooses for this family: sdpa where it is supported, else eager."""
    lm = causal_lm(model)
    lm.set_attn_implementation(lm.get_correct_attn_implementation(None))


@contextmanager
def generating(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The causal LM in evaluation mode with its own attention, as ``generate`` with its cache needs it."""
    lm = causal_lm(model)
    packed = lm.config._attn_implementation == PACKED
    if packed:
        use_own(model)
    try:
        with evaluating(model):
            yield lm
    finally:
        if packed:
            use_packed(model)


def packed_arguments(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """``model.forward`` arguments of a row with documents of these lengths: positions, bounds, no cache."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0).to(device)
    return {"position_ids": positions, **bounds_arguments(bounds, max(lengths))}


def bounds_arguments(bounds: Tensor, longest: int) -> dict[str, Any]:
    """The document bounds under the names transformers gives them."""
    spans = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    return {**spans, "use_cache": False}


def probe(model: nn.Module, lengths: tuple[int, ...] = (7, 11, 5)) -> ProbeResult:
    """Compare three short random documents packed in one row with each alone; leaves the model as it was."""
    lm = causal_lm(model)
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.config.get_text_config().vocab_size
    documents = [torch.randint(vocabulary, (1, length), generator=generator).to(lm.device) for length in lengths]
    before, seen = str(lm.config._attn_implementation), Windows()
    token = _windows.set(seen)
    try:
        with evaluating(model):
            use_own(model)
            solo = torch.cat([lm(input_ids=ids, use_cache=False).logits for ids in documents], dim=1).float()
            use_packed(model)
            row = torch.cat(documents, dim=1)
            arguments = packed_arguments(list(lengths), lm.device)
            packed = lm(input_ids=row, **arguments).logits.float()
            row[0, : lengths[0]] = (row[0, : lengths[0]] + 1) % vocabulary
            neighbour = lm(input_ids=row, **arguments).logits.float()
    except torch.OutOfMemoryError:
        raise
    except (CannotPack, TypeError, ValueError, AttributeError, RuntimeError) as error:
        return ProbeResult(False, float("inf"), str(error).splitlines()[0])
    finally:
        _windows.reset(token)
        lm.set_attn_implementation(before)
    behind = slice(lengths[0], None)
    tolerance = TOLERANCE[compute_dtype(lm)]
    leak = relative_difference(packed[:, behind], neighbour[:, behind])
    return judge(relative_difference(solo, packed), leak, seen, tolerance)


def compute_dtype(lm: PreTrainedModel) -> torch.dtype:
    """The type matrix products run in: autocast's if it is on, else the weights'."""
    kind = lm.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else lm.dtype


def relative_difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    return ((left - right).abs().max() / left.abs().max()).item()


def judge(difference: float, leak: float, seen: Windows, tolerance: float) -> ProbeResult:
    """The verdict. The documents may be shorter than a window, so the windows themselves count too."""
    if lost := seen.masked - seen.attended:
        return ProbeResult(False, difference, f"its attention is not told the local span {min(lost)} of its mask")
    # Not-a-number must fail too, hence "not <=".
    if not difference <= tolerance:
        return ProbeResult(False, difference, f"packed logits differ from solo logits by {difference:.2g}")
    if not leak <= tolerance / 10:
        return ProbeResult(False, leak, f"a document changes the logits of those behind it by {leak:.2g}")
    return ProbeResult(True, difference)
