"""Check that the documents in a packed row of a model have the same logits as in rows of their own.

The probe packs two short random documents with a common prefix and compares their logits with those of separate rows.
It also changes some documents, which must not change the logits of the others. Attention that torch compiles then runs
forward and backward on a row as long as the run's, so that it does not fail in the middle of the run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.batching.packed_row import pack_row
from sft_cli.errors import SftError
from sft_cli.model.attention.attention_function import (
    AttentionLog,
    FlexCall,
    PackingUnsupported,
    attention_log,
    packed_attention,
)
from sft_cli.model.attention.flex import flex_compile_error
from sft_cli.model.attention.packing import packed_row_arguments, use_default_attention, use_packed_attention
from sft_cli.model.attention.rotary import rotary_problem
from sft_cli.model.attention.router_replay import (
    Routes,
    concat_routes,
    record_routes,
    replay_routes,
    router_modules,
    routes_by_token,
    slice_routes,
)
from sft_cli.model.device import compute_dtype
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.quant import causal_lm, evaluation_mode

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative logit difference between packed and separate rows; if documents attend to each other it is 0.2 or
more. A tenth of it is the largest change that other documents may cause: in half precision the two attention kernels
round differently, but the logits of a document do not depend on other documents at all."""
STATEFUL_REASON = "layers that carry a state from token to token would start again"
STOCHASTIC_REASON = "the model's own dropout must differ between examples"
"""Reasons against sharing a common prefix."""
MIN_TRIAL_TOKENS = 256
"""Smallest number of tokens of the row that compiled attention is tried on: two blocks of its kernel."""
PROBE_LENGTHS = (4, 3, 7)
"""Numbers of tokens of the common prefix and the two endings of the documents of the probe."""


@dataclass(frozen=True)
class ProbeResult:
    """Whether several documents may share a row of this model, and whether a common prefix may be computed once.

    Attributes:
        packed_ok: Whether the logits of packed and separate rows agree.
        difference: Largest absolute logit difference over the largest absolute logit; inf if nothing was computed.
        reason: If they do not agree, or only without a shared prefix, the reason as a clause for the log; else empty.
        shared_ok: Whether they also agree if the prefix of two documents is computed once.
    """

    packed_ok: bool
    difference: float
    reason: str = ""
    shared_ok: bool = False


@dataclass(frozen=True, eq=False)
class SoloResult:
    """Results of a document, or a part of it, in a row of its own.

    Attributes:
        logits: ``(length, V)``.
        routes: The experts that the routers chose.
    """

    logits: Tensor
    routes: Routes

    def slice(self, first: int, end: int) -> "SoloResult":
        """Return the results of tokens ``first`` to ``end - 1``."""
        return SoloResult(self.logits[first:end], slice_routes(self.routes, first, end))


def probe_packing(model: nn.Module, row_tokens: int = MIN_TRIAL_TOKENS) -> ProbeResult:
    """Compare two short random documents with a common prefix in packed and separate rows; the model is not changed.

    One row contains them twice, as whole documents and with a shared prefix; if that fails, another one contains only
    the whole documents. In half precision rounding can hide a lost state, so families with a recurrent state share no
    prefixes.

    Args:
        model: A transformers causal LM or a PEFT model around one.
        row_tokens: Number of tokens of the longest row of the run.
    """
    lm = causal_lm(model)
    if problem := rotary_problem(model):
        return ProbeResult(False, float("inf"), problem)
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.config.get_text_config().vocab_size
    ids = [torch.randint(vocabulary, (length,), generator=generator).to(lm.device) for length in PROBE_LENGTHS]
    previous = str(lm.config._attn_implementation)
    try:
        with evaluation_mode(model):
            use_default_attention(model)
            documents_ids = [torch.cat([ids[0], ending]) for ending in ids[1:]]
            solo_results = [run_alone(lm, row) for row in documents_ids]
            first = PROBE_LENGTHS[0]
            parts = [
                solo_results[0].slice(0, first),
                *(result.slice(first, len(result.logits)) for result in solo_results),
            ]
            log = AttentionLog()
            packed_shared = compare_packed(lm, [*documents_ids, *ids], (-1, -1, -1, 2, 2), [*solo_results, *parts], log)
            if packed_shared.packed_ok and (failure := find_compile_problem(log.compiled, row_tokens, lm.device)):
                return ProbeResult(False, float("inf"), failure)
            if packed_shared.packed_ok and lm._is_stateful:
                packed_shared = replace(packed_shared, packed_ok=False, reason=STATEFUL_REASON)
            if packed_shared.packed_ok:
                use_default_attention(model)
                stochastic = is_stochastic(lm, documents_ids[0])
                return replace(packed_shared, shared_ok=not stochastic, reason=STOCHASTIC_REASON if stochastic else "")
            packed_alone = compare_packed(lm, documents_ids, (-1, -1), solo_results)
    finally:
        lm.set_attn_implementation(previous)
    return (
        replace(packed_alone, reason=f"with a shared prefix, {packed_shared.reason}")
        if packed_alone.packed_ok
        else packed_alone
    )


def run_alone(lm: PreTrainedModel, ids: Tensor) -> SoloResult:
    """Run a document in a row of its own."""
    with record_routes(lm) as routes:
        logits = lm(input_ids=ids[None], use_cache=False).logits[0].float()
    return SoloResult(logits, routes_by_token(routes, len(ids), len(router_modules(lm))))


def is_stochastic(lm: PreTrainedModel, ids: Tensor) -> bool:
    """Return whether the model draws random numbers in training (dropout, noise on its routers), by running it.

    Call it inside ``evaluation_mode``, which restores the modes of the modules: it leaves them in training mode.
    Nondeterministic kernels also change logits, but as much with the same seed as with another one.
    """
    lm.train()
    logits = []
    with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            logits.append(run_alone(lm, ids).logits)
    return relative_difference(logits[0], logits[2]) > 2 * relative_difference(logits[0], logits[1])


def compare_packed(
    lm: PreTrainedModel,
    ids: Sequence[Tensor],
    parents: Sequence[int],
    solo_results: Sequence[SoloResult],
    log: AttentionLog | None = None,
) -> ProbeResult:
    """Check that segments in one row have the logits of separate rows, and do not depend on segments they do not see.

    For the second check, the first and the second to last segment are changed, which no other segment continues.

    Args:
        lm: The model, in evaluation mode; its attention is packed afterwards.
        ids: The tokens of each segment.
        parents: The segment that each one continues; -1 for none.
        solo_results: The results of each segment in a row of its own.
        log: The log to fill with the requests of the passes, if any.
    """
    log = AttentionLog() if log is None else log
    token = attention_log.set(log)
    lengths = [len(segment) for segment in ids]
    vocabulary = solo_results[0].logits.shape[-1]
    modified = {0, len(ids) - 2}
    changed = [(segment + 1) % vocabulary if index in modified else segment for index, segment in enumerate(ids)]
    try:
        use_packed_attention(lm, check_masks=True)
        arguments = packed_row_arguments(lengths, lm.device, parents)
        with replay_routes(lm, concat_routes([result.routes for result in solo_results])):
            rows = [lm(input_ids=torch.cat(row)[None], **arguments).logits[0].float() for row in (list(ids), changed)]
    except SftError as error:
        return ProbeResult(False, float("inf"), error.problem)
    except (PackingUnsupported, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return ProbeResult(False, float("inf"), str(error).splitlines()[0])
    finally:
        attention_log.reset(token)
    unchanged = [[part for index, part in enumerate(row.split(lengths)) if index not in modified] for row in rows]
    leak = relative_difference(torch.cat(unchanged[0]), torch.cat(unchanged[1]))
    difference = relative_difference(torch.cat([result.logits for result in solo_results]), rows[0])
    return packing_verdict(difference, leak, log, TOLERANCE[compute_dtype(lm)])


def find_compile_problem(calls: Iterable[FlexCall], tokens: int, device: torch.device) -> str:
    """Run attention that torch compiles, forward and backward, on a row of zeros.

    Compilation can fail on one card and succeed on another, and the backward pass needs more shared memory.

    Args:
        calls: The calls of the model's layers; each is tried once.
        tokens: Number of tokens of the row.
        device: The device to compile for.

    Returns:
        The reason why it cannot be compiled, as a clause for the log; empty if it can.
    """
    from torch._dynamo.exc import TorchDynamoException

    row = pack_row([max(tokens, MIN_TRIAL_TOKENS)]).to(device)
    for call in calls:
        query, key, value = [
            torch.zeros(1, heads, row.lengths[0], width, dtype=call.dtype, device=device, requires_grad=True)
            for heads, width in zip(call.heads, call.widths, strict=True)
        ]
        sinks = torch.zeros(call.heads[0], device=device) if call.has_sinks else None
        options: dict[str, Any] = {**dict(call.arguments), "s_aux": sinks}
        try:
            with torch.enable_grad():
                attended, _ = packed_attention(nn.Identity(), query, key, value, None, sft_documents=row, **options)
                attended.sum().backward()
        except TorchDynamoException as error:
            return flex_compile_error(error).problem
        except SftError as error:
            return error.problem
    return ""


def relative_difference(left: Tensor, right: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value."""
    return ((left - right).abs().max() / left.abs().max()).item()


def packing_verdict(difference: float, leak: float, log: AttentionLog, tolerance: float) -> ProbeResult:
    """Return the result for measured differences.

    The documents may be shorter than a window, so the windows themselves are compared as well.
    """
    if lost := log.masked - log.attended:
        return ProbeResult(False, difference, f"its attention does not get the sliding window {min(lost)} of its mask")
    # "not <=", so that NaN fails as well.
    if not difference <= tolerance:
        return ProbeResult(False, difference, f"packed logits differ from unpacked logits by {difference:.2g}")
    if not leak <= tolerance / 10:
        return ProbeResult(False, leak, f"a document changes the logits of those after it by {leak:.2g}")
    return ProbeResult(True, difference)
