"""Log-likelihoods of continuations, without padding; a context is computed once for all of its continuations."""

from collections.abc import Callable, Sequence

import numpy as np

from sft_cli.batching.collate import collate, plan_micro_batches
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import TokenizedExample
from sft_cli.eval.engine.prompts import Continuation
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.quant import causal_lm


def continuation_logprobs(
    loss_model: LossModel,
    continuations: Sequence[Continuation],
    max_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Return the log-likelihood of each continuation in nats: the sum over its tokens, in float32 per token.

    Several continuations share a row if the model can be packed, and the tokens that they have in common at the start
    are computed once if it can share prefixes. No value depends on the layout of the rows.

    Args:
        loss_model: The model; the caller enters autocast.
        continuations: The continuations.
        max_tokens: Largest number of tokens of a row.
        progress: Called with the number of finished continuations after each row.
    """
    examples = [as_example(one) for one in continuations]
    logprobs, device = [0.0] * len(examples), causal_lm(loss_model.model).device
    share = Choice.always if loss_model.shares_prefixes else Choice.never
    plan = plan_micro_batches(examples, max_tokens=max_tokens if loss_model.packed else 0, share_prefixes=share)
    for row in plan.partition[0]:
        chosen = [examples[index] for index in row]
        prefixes = None if plan.prefixes is None else plan.prefixes.restrict(row)
        batch = collate(chosen, Reduction.token, prefixes=prefixes).to(device)
        losses = loss_model.token_losses(
            batch.input_ids, batch.positions, batch.documents, batch.targets, batch.target_at
        )
        nats = losses.double().cpu().numpy()
        ends = np.cumsum([len(continuations[index].ids) for index in row])
        for index, part in zip(row, np.split(nats, ends[:-1]), strict=True):
            logprobs[index] = -float(part.sum())
        if progress is not None:
            progress(len(row))
    return logprobs


def as_example(one: Continuation) -> TokenizedExample:
    """Return the ids of context and continuation, of which only the continuation's are predicted."""
    ids = np.array([*one.context, *one.ids], dtype=np.int64)
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[len(one.context) :] = 1
    return TokenizedExample(ids, weights)


def cut_context(one: Continuation, limit: int | None) -> Continuation:
    """Return the continuation with the end of its context, so that both fit into ``limit`` tokens.

    The last id is predicted but not an input, so ``limit + 1`` ids fit.
    """
    if limit is None:
        return one
    space = max(1, limit + 1 - len(one.ids))
    return one if len(one.context) <= space else Continuation(one.context[-space:], one.ids, one.merged)
