"""Greedy generation for many prompts; batching does not change the answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedModel

from sft_cli.distributed.process_group import World, current_world
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors, supports_padding
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length


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


def generate_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
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
        progress: Called after each batch.
    """
    answers: dict[int, GeneratedAnswer] = {}
    with generation_mode(model) as lm:
        context, num_vectors = model_context_length(lm.config), num_prepended_vectors(model)
        limits = [
            max_new_tokens if context is None else min(max_new_tokens, context - num_vectors - len(ids))
            for ids in prompts
        ]
        batches = list(
            _length_batches([len(ids) for ids in prompts], limits, batch_size, same_length=not supports_padding(model))
        )
        # Processes with a sharded model must run the same layers at the same time.
        world = World() if any(isinstance(parameter, DTensor) for parameter in model.parameters()) else current_world()
        for batch in batches[world.rank :: world.size]:
            limit = limits[batch[0]]
            chosen = [prompts[i] for i in batch]
            generated = _generate(lm, chosen, stop_ids, pad_id, limit) if limit > 0 else [[] for _ in batch]
            for i, ids in zip(batch, generated, strict=True):
                answers[i] = _until_stop(ids, frozenset(stop_ids), shortened=limit < max_new_tokens)
            if progress is not None:
                progress(len(answers), len(prompts))
    all_answers = {
        i: answer for process_answers in world.all_gather_object(answers) for i, answer in process_answers.items()
    }
    return [all_answers[i] for i in range(len(prompts))]


def _length_batches(
    lengths: Sequence[int], limits: Sequence[int], size: int, *, same_length: bool
) -> Iterator[list[int]]:
    """Yield indices in batches, the longest prompts first, so that it fails at once if memory is too small.

    The prompts of a batch have the same limit of new tokens: a longer prompt near the end of the context must not
    shorten the answers to others. With ``same_length`` they also have the same length, so that none is padded.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for _, group in groupby(order, key=lambda i: (max(limits[i], 0), lengths[i] if same_length else 0)):
        group_indices = list(group)
        yield from (group_indices[start : start + size] for start in range(0, len(group_indices), size))


def _generate(
    lm: PreTrainedModel, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], pad_id: int, limit: int
) -> list[list[int]]:
    """Generate at most ``limit`` new ids for each prompt; padding follows a stop token."""
    longest = max(len(ids) for ids in prompts)
    rows = [[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=list(stop_ids), pad_token_id=pad_id, use_cache=True
    )
    model_settings = lm.generation_config
    # generate() would use the model's own settings for unset values.
    lm.generation_config = GenerationConfig()
    try:
        sequences = lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
            input_ids=torch.tensor(rows, device=lm.device),
            attention_mask=torch.tensor(mask, device=lm.device),
            generation_config=greedy,
        )
    finally:
        lm.generation_config = model_settings
    assert isinstance(sequences, torch.Tensor)
    return sequences[:, longest:].tolist()


def _until_stop(ids: Sequence[int], stops: frozenset[int], *, shortened: bool) -> GeneratedAnswer:
    """Return the answer before its first stop token."""
    end = next((index for index, id in enumerate(ids) if id in stops), None)
    return GeneratedAnswer(tuple(ids), False, shortened) if end is None else GeneratedAnswer(tuple(ids[:end]), True)
