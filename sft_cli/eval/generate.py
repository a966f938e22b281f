"""Generation for many prompts, greedy or sampled; batching does not change the answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from sft_cli.distributed.process_group import World, current_world
from sft_cli.eval.engine.prefill import cached_tokens, can_pack_prompts, packed_cache, shared_cache
from sft_cli.eval.engine.sampling import Sampling, SeededSampling
from sft_cli.eval.engine.stopping import HalfStopped
from sft_cli.model.adapter.folded import folded_adapter
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors, supports_padding
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length

TOKENS_PER_BATCH = {"cpu": 2048}
"""Padded prompt tokens of a batch by device: above it, the prefill of a CPU waits for memory (bench_eval.py)."""
OTHER_TOKENS_PER_BATCH = 32768
"""The same for other devices: the keys and values of that many tokens fit next to most models."""


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer.

    Attributes:
        ids: The generated ids, without the stop token.
        stopped: Whether a stop token ended the answer.
        truncated: Whether the answer was cut at the end of the model's context, before ``max_new_tokens``.
    """

    ids: tuple[int, ...]
    stopped: bool
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are generated.

    Attributes:
        stop_ids: Tokens that end an answer.
        max_new_tokens: Largest number of tokens of an answer, including its stop token.
        batch_size: Number of answers of a batch.
        sampling: None: each token is the most probable one.
        stop_texts: Texts that end an answer; they stay in it. They need a tokenizer.
        tokenizer: The tokenizer that decodes the ids for ``stop_texts``.
        share_prefixes: Whether packed prompts may share what they have in common at the start (``LossModel``).
    """

    stop_ids: tuple[int, ...]
    max_new_tokens: int
    batch_size: int
    sampling: Sampling | None = None
    stop_texts: tuple[str, ...] = ()
    tokenizer: Any = None
    share_prefixes: bool = False


def generate_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    share_prefixes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[GeneratedAnswer]:
    """Generate the greedy answer to each prompt, in this order.

    Each token is the most probable one: the model's own generation_config (sampling, penalties) is ignored. No random
    generator is used, and the model is unchanged. Prompt and answer never exceed the model's context; a prompt that
    fills it gets no answer. The prompts are split over the processes of a run, and every process gets all answers.

    Args:
        model: A transformers causal LM or a PEFT model around one; the caller enters autocast.
        prompts: Token ids, at least one per prompt.
        stop_ids: Tokens that end an answer.
        pad_id: Any token of the vocabulary; padding is masked.
        max_new_tokens: Largest number of tokens of an answer, including its stop token.
        batch_size: Number of prompts of a batch.
        share_prefixes: See ``GenerationSettings``.
        progress: Called after each batch.
    """
    answers: dict[int, GeneratedAnswer] = {}
    settings = GenerationSettings(tuple(stop_ids), max_new_tokens, batch_size, share_prefixes=share_prefixes)
    # Processes with a sharded model must run the same layers at the same time.
    world = World() if any(isinstance(parameter, DTensor) for parameter in model.parameters()) else current_world()
    for batch, generated in answer_batches(model, prompts, settings, pad_id=pad_id, world=world):
        answers |= dict(zip(batch, generated, strict=True))
        if progress is not None:
            progress(len(answers), len(prompts))
    all_answers = {
        i: answer for process_answers in world.all_gather_object(answers) for i, answer in process_answers.items()
    }
    return [all_answers[i] for i in range(len(prompts))]


def answer_batches(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    seeds: Sequence[int] = (),
    pad_id: int,
    world: World,
) -> Iterator[tuple[list[int], list[GeneratedAnswer]]]:
    """Yield the indices and the answers of each batch of this process, the longest prompts first.

    Equal prompts in a batch are computed once, for several answers to one item. If the model can be packed, prompts are
    computed without padding, and a batch may have more tokens. A float32 adapter is folded into the weights meanwhile.

    Args:
        model: A transformers causal LM or a PEFT model around one; the caller enters autocast.
        prompts: Token ids, at least one per prompt.
        settings: How answers are generated.
        seeds: The seed of each prompt, with ``settings.sampling``.
        pad_id: Any token of the vocabulary; padding is masked.
        world: The processes over which the prompts are split.
    """
    packs = can_pack_prompts(model)
    with generation_mode(model) as lm, folded_adapter(model):
        context, num_vectors = model_context_length(lm.config), num_prepended_vectors(model)
        longest = settings.max_new_tokens
        limits = [longest if context is None else min(longest, context - num_vectors - len(ids)) for ids in prompts]
        lengths, padding = [len(ids) for ids in prompts], supports_padding(model)
        tokens = TOKENS_PER_BATCH.get(lm.device.type, OTHER_TOKENS_PER_BATCH)
        most = max(tokens, cached_tokens(lm)) if packs else tokens
        batches = list(_length_batches(lengths, limits, settings.batch_size, most, same_length=not padding))
        for batch in batches[world.rank :: world.size]:
            limit = limits[batch[0]]
            own_seeds = [seeds[i] for i in batch] if settings.sampling is not None else []
            if limit <= 0:
                generated = [[] for _ in batch]
            else:
                own, chosen = replace(settings, max_new_tokens=limit), [tuple(prompts[i]) for i in batch]
                cache = None
                if packs:
                    cache = packed_cache(model, chosen, max_tokens=tokens, share_prefixes=settings.share_prefixes)
                generated = _generate(lm, chosen, own, own_seeds, pad_id, reuse=num_vectors == 0, cache=cache)
            stops = frozenset(settings.stop_ids)
            yield batch, [_until_stop(ids, stops, shortened=limit < settings.max_new_tokens) for ids in generated]


def _length_batches(
    lengths: Sequence[int], limits: Sequence[int], size: int, tokens: int, *, same_length: bool
) -> Iterator[list[int]]:
    """Yield indices in batches, the longest prompts first, so that it fails at once if memory is too small.

    The prompts of a batch have the same limit of new tokens: a longer prompt near the end of the context must not
    shorten the answers to others. With ``same_length`` they also have the same length, so that none is padded.
    A batch has at most ``size`` prompts and, unless it is a single one, ``tokens`` tokens with padding.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for _, group in groupby(order, key=lambda i: (max(limits[i], 0), lengths[i] if same_length else 0)):
        batch: list[int] = []
        for index in group:
            if batch and (len(batch) == size or (len(batch) + 1) * lengths[batch[0]] > tokens):
                yield batch
                batch = []
            batch.append(index)
        yield batch


def _generate(
    lm: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    settings: GenerationSettings,
    seeds: Sequence[int],
    pad_id: int,
    *,
    reuse: bool,
    cache: DynamicCache | None = None,
) -> list[list[int]]:
    """Generate at most ``max_new_tokens`` new ids for each prompt; padding follows a stop token.

    Args:
        lm: The causal LM.
        prompts: The prompts of a batch.
        settings: How answers are generated.
        seeds: The seed of each prompt, with ``settings.sampling``.
        pad_id: Any token of the vocabulary.
        reuse: Whether the keys and values of equal prompts may be computed once.
        cache: Keys and values of all ids but the last; None to compute them.
    """
    longest = max(len(ids) for ids in prompts)
    rows = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts], device=lm.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=lm.device)
    if cache is None and reuse:
        cache = shared_cache(lm, prompts, rows, mask)
    compact = reuse and not lm._is_stateful
    sampling = None if settings.sampling is None else SeededSampling(settings.sampling, seeds)
    places, answers = list(range(len(prompts))), [[] for _ in prompts]
    while places:
        stopping = HalfStopped(settings.stop_ids, settings.stop_texts, settings.tokenizer, stop_early=compact)
        left = settings.max_new_tokens - (rows.shape[1] - longest)
        sequences, cache = _run_generate(lm, rows, mask, cache, settings, left, pad_id, sampling, stopping)
        for place, ids in zip(places, sequences[:, longest:].tolist(), strict=True):
            answers[place] = ids
        if sequences.shape[1] - longest >= settings.max_new_tokens or not (kept := stopping.unfinished()):
            break
        assert cache is not None
        chosen = torch.tensor(kept, device=rows.device)
        new = mask.new_ones(len(kept), sequences.shape[1] - rows.shape[1])
        rows, mask = sequences[chosen], torch.cat([mask[chosen], new], dim=1)
        cache.batch_select_indices(chosen)
        places = [places[index] for index in kept]
        if sampling is not None:
            sampling.keep(kept)
    return answers


def _run_generate(
    lm: PreTrainedModel,
    rows: Tensor,
    mask: Tensor,
    cache: DynamicCache | None,
    settings: GenerationSettings,
    max_new_tokens: int,
    pad_id: int,
    sampling: SeededSampling | None,
    stopping: HalfStopped,
) -> tuple[Tensor, DynamicCache | None]:
    """Generate until ``stopping`` ends all rows or the limit is reached.

    Args:
        lm: The causal LM.
        rows: Ids ``(rows, length)``, padded on the left.
        mask: 0 for padding.
        cache: Keys and values of all ids but the last; None to compute them.
        settings: How answers are generated.
        max_new_tokens: Largest number of new ids.
        pad_id: Any token of the vocabulary.
        sampling: None: each token is the most probable one.
        stopping: Ends rows.

    Returns:
        The rows with the new ids, and the keys and values of all ids but the last.
    """
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(settings.stop_ids),
        pad_token_id=pad_id,
        use_cache=True,
        return_dict_in_generate=True,
    )
    options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([stopping])}
    if sampling is not None:
        options["logits_processor"] = LogitsProcessorList([sampling])
    if cache is not None:
        options["past_key_values"] = cache
    model_settings = lm.generation_config
    # generate() would use the model's own settings for unset values.
    lm.generation_config = GenerationConfig()
    try:
        found: Any = lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
            input_ids=rows, attention_mask=mask, generation_config=greedy, **options
        )
    finally:
        lm.generation_config = model_settings
    return found.sequences, found.past_key_values


def _until_stop(ids: Sequence[int], stops: frozenset[int], *, shortened: bool) -> GeneratedAnswer:
    """Return the answer before its first stop token."""
    end = next((index for index, id in enumerate(ids) if id in stops), None)
    return GeneratedAnswer(tuple(ids), False, shortened) if end is None else GeneratedAnswer(tuple(ids[:end]), True)
