"""Packed attention: several documents laid end to end in one row, none of which sees another.

One function is registered with transformers' ``AttentionInterface``; no model code changes. What lies where in the row
travels as ``sft_documents`` from ``model.forward`` to every layer, beside the bounds that FlashAttention is told.
Documents that begin alike may share the segment they begin with: it is computed once and seen by each of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sft_cli.batching.packed_row import ARGUMENT, Documents, documents
from sft_cli.model.attention.attention_function import CannotPack, Windows, no_mask, packed_attention, watched
from sft_cli.model.attention.router_replay import Routes, by_token, cut, given, joined, noted, routers
from sft_cli.model.device import compute_dtype
from sft_cli.model.quant import causal_lm, evaluating

PACKED = "sft_packed"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative logit difference between packed and solo; documents that see each other differ by 0.2 and more.
A tenth of it is what another first document may change in the logits of those behind it: in half precision the two
attention kernels round differently, but a document's logits do not depend on its neighbours at all."""

STATE = "layers that carry a state from token to token would start again"
NOISE = "the model's own dropout is each example's own"
"""Why a beginning that could be shared is not."""

PROBED = (4, 3, 7)
"""Tokens of the beginning and of the two endings that the probe makes documents of."""


@dataclass(frozen=True)
class ProbeResult:
    """Whether several documents may share a row of this model, and their common beginning a single computation.

    Attributes:
        packed_ok: Packed and solo logits agree.
        difference: Largest absolute logit difference over the largest absolute logit; inf when nothing was computed.
        reason: One clause for the log when they do not agree, or only without a shared beginning; else empty.
        shared_ok: They agree too when the beginning of two documents is computed once.
    """

    packed_ok: bool
    difference: float
    reason: str = ""
    shared_ok: bool = False


@dataclass(frozen=True, eq=False)
class Solo:
    """A document that stood alone in its row, or a part of it.

    Attributes:
        logits: ``(length, V)``.
        routes: What its routers chose.
    """

    logits: Tensor
    routes: Routes

    def part(self, first: int, end: int) -> "Solo":
        """Some of its tokens."""
        return Solo(self.logits[first:end], cut(self.routes, first, end))


def register() -> None:
    """Make ``sft_packed`` known to transformers; doing it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, no_mask)


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
    """The causal LM in evaluation mode with its own attention, as ``generate`` with its cache needs it.

    Vectors that PEFT puts before the tokens are put before the prompts.
    """
    from sft_cli.model.adapter.prompt_learning import spoken_through

    lm = causal_lm(model)
    packed = lm.config._attn_implementation == PACKED
    if packed:
        use_own(model)
    try:
        with evaluating(model), spoken_through(model):
            yield lm
    finally:
        if packed:
            use_packed(model)


def packed_arguments(
    lengths: Sequence[int], device: torch.device, parents: Sequence[int] | None = None
) -> dict[str, Any]:
    """``model.forward`` arguments of a row with segments of these lengths: positions, bounds, no cache.

    Args:
        lengths: Own tokens of each segment.
        device: Where the model is.
        parents: The earlier segment that each continues, or -1; None: each is a document.
    """
    row = documents(lengths, parents)
    return {"position_ids": row.positions.to(device), **documents_arguments(row.to(device))}


def documents_arguments(row: Documents) -> dict[str, Any]:
    """A row's documents for the packed attention, and their bounds under the names transformers gives them."""
    longest = max(row.lengths)
    bounds = {"cu_seq_lens_q": row.cu_queries, "cu_seq_lens_k": row.cu_queries}
    return {ARGUMENT: row, **bounds, "max_length_q": longest, "max_length_k": longest, "use_cache": False}


def probe(model: nn.Module) -> ProbeResult:
    """Compare two short random documents that begin alike with each alone; leaves the model as it was.

    One row holds them twice, whole and with their beginning computed once; where that fails, another holds them whole.
    In half precision a state that is lost can hide behind the rounding, so families that carry one share nothing.
    """
    lm = causal_lm(model)
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.config.get_text_config().vocab_size
    ids = [torch.randint(vocabulary, (length,), generator=generator).to(lm.device) for length in PROBED]
    before = str(lm.config._attn_implementation)
    try:
        with evaluating(model):
            use_own(model)
            whole = [torch.cat([ids[0], ending]) for ending in ids[1:]]
            solo = [alone(lm, row) for row in whole]
            first = PROBED[0]
            parts = [solo[0].part(0, first), *(one.part(first, len(one.logits)) for one in solo)]
            both = trial(lm, [*whole, *ids], (-1, -1, -1, 2, 2), [*solo, *parts])
            if both.packed_ok and lm._is_stateful:
                both = replace(both, packed_ok=False, reason=STATE)
            if both.packed_ok:
                use_own(model)
                noisy = draws(lm, whole[0])
                return replace(both, shared_ok=not noisy, reason=NOISE if noisy else "")
            apart = trial(lm, whole, (-1, -1), solo)
    finally:
        lm.set_attn_implementation(before)
    return replace(apart, reason=f"with a shared beginning, {both.reason}") if apart.packed_ok else apart


def alone(lm: PreTrainedModel, ids: Tensor) -> Solo:
    """A document in a row of its own."""
    with noted(lm) as routes:
        logits = lm(input_ids=ids[None], use_cache=False).logits[0].float()
    return Solo(logits, by_token(routes, len(ids), len(routers(lm))))


def draws(lm: PreTrainedModel, ids: Tensor) -> bool:
    """Whether the model draws random numbers in training (dropout, noise on its routers), told by what they do.

    Leaves the modules in training mode; call it within ``evaluating``, which sets them back. Kernels that add in no
    fixed order change logits too, but as much with the same seed as with another.
    """
    lm.train()
    found = []
    with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found.append(alone(lm, ids).logits)
    return relative_difference(found[0], found[2]) > 2 * relative_difference(found[0], found[1])


def trial(lm: PreTrainedModel, ids: Sequence[Tensor], parents: Sequence[int], solo: Sequence[Solo]) -> ProbeResult:
    """Whether segments in one row have the logits they have alone, and none depends on what it cannot see.

    For the latter the first and, of more than two, the last segment but one become others: nobody continues them.
    """
    seen = Windows()
    token = watched.set(seen)
    lengths = [len(own) for own in ids]
    vocabulary = solo[0].logits.shape[-1]
    others = {0, len(ids) - 2}
    changed = [(own + 1) % vocabulary if place in others else own for place, own in enumerate(ids)]
    try:
        use_packed(lm)
        arguments = packed_arguments(lengths, lm.device, parents)
        with given(lm, joined([one.routes for one in solo])):
            rows = [lm(input_ids=torch.cat(row)[None], **arguments).logits[0].float() for row in (list(ids), changed)]
    except torch.OutOfMemoryError:
        raise
    except (CannotPack, TypeError, ValueError, AttributeError, RuntimeError) as error:
        return ProbeResult(False, float("inf"), str(error).splitlines()[0])
    finally:
        watched.reset(token)
    kept = [[part for place, part in enumerate(row.split(lengths)) if place not in others] for row in rows]
    leak = relative_difference(torch.cat(kept[0]), torch.cat(kept[1]))
    difference = relative_difference(torch.cat([one.logits for one in solo]), rows[0])
    return judge(difference, leak, seen, TOLERANCE[compute_dtype(lm)])


def relative_difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    return ((left - right).abs().max() / left.abs().max()).item()


def judge(difference: float, leak: float, seen: Windows, tolerance: float) -> ProbeResult:
    """The verdict. The documents may be shorter than a window, so the windows themselves count too."""
    if lost := seen.masked - seen.attended:
        return ProbeResult(False, difference, f"its attention is not told the local span {min(lost)} of its mask")
    # Not-a-number must fail too, hence "not <=".
    if not difference <= tolerance:
        return ProbeResult(False, difference, f"packed logits differ from unpacked logits by {difference:.2g}")
    if not leak <= tolerance / 10:
        return ProbeResult(False, leak, f"a document changes the logits of those after it by {leak:.2g}")
    return ProbeResult(True, difference)
