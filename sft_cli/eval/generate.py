"""Greedy answers to many prompts, each the one the model gives to that prompt alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedModel

from sft_cli.distributed.process_group import Ranks, here
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors, supports_padding
from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.load import model_context_length


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said.

    Attributes:
        ids: The generated ids, without the stop token.
        stopped: Whether a stop token ended them.
        truncated: Whether the end of the model's context did, before ``max_new_tokens`` were reached.
    """

    ids: tuple[int, ...]
    stopped: bool
    truncated: bool = False


def answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """The greedy answer to each prompt, in the order given.

    Always the most probable token: what the model's own generation_config asks for (sampling, penalties) is left
    out. No random generator is used, and the model is left as it was. Prompt and answer never exceed the model's
    context; a prompt that fills it gets no answer. The processes of a run answer a share each, and get all answers.

    Args:
        model: A transformers causal LM or a PEFT model around one; autocast is the caller's.
        prompts: Token ids, at least one each.
        stop_ids: Tokens that end an answer.
        pad_id: Any token of the vocabulary; it is masked.
        max_new_tokens: Longest answer, its stop token counted.
        batch_size: Prompts answered at once.
        progress: Called after each batch.
    """
    found: dict[int, Answer] = {}
    with generation_mode(model) as lm:
        limit, taken = model_context_length(lm.config), num_prepended_vectors(model)
        rooms = [max_new_tokens if limit is None else min(max_new_tokens, limit - taken - len(ids)) for ids in prompts]
        batches = list(_batches([len(ids) for ids in prompts], rooms, batch_size, alike=not supports_padding(model)))
        # Processes that hold a part of the model each must go through the same layers at the same time.
        ranks = Ranks() if any(isinstance(one, DTensor) for one in model.parameters()) else here()
        for batch in batches[ranks.place.rank :: ranks.place.size]:
            room = rooms[batch[0]]
            chosen = [prompts[i] for i in batch]
            new = _generate(lm, chosen, stop_ids, pad_id, room) if room > 0 else [[] for _ in batch]
            for i, ids in zip(batch, new, strict=True):
                found[i] = _cut(ids, frozenset(stop_ids), shortened=room < max_new_tokens)
            if progress is not None:
                progress(len(found), len(prompts))
    everybody = {i: answer for own in ranks.gather(found) for i, answer in own.items()}
    return [everybody[i] for i in range(len(prompts))]


def _batches(lengths: Sequence[int], rooms: Sequence[int], size: int, *, alike: bool) -> Iterator[list[int]]:
    """Indices in batches, the longest prompts first, so that too little memory shows at once.

    Prompts of a batch have the same room: a longer neighbour near the end of the context must not shorten an answer.
    If ``alike``, they have the same length too, so that none is padded.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for _, group in groupby(order, key=lambda i: (max(rooms[i], 0), lengths[i] if alike else 0)):
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _generate(
    lm: PreTrainedModel, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], pad_id: int, room: int
) -> list[list[int]]:
    """At most ``room`` new ids for each prompt; behind a stop token stands padding."""
    longest = max(len(ids) for ids in prompts)
    rows = [[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=room, eos_token_id=list(stop_ids), pad_token_id=pad_id, use_cache=True
    )
    own = lm.generation_config
    # generate() would fill what is unset here from the model's own settings.
    lm.generation_config = GenerationConfig()
    try:
        whole = lm.generate(  # pyright: ignore[reportCallIssue]  transformers types it through a mix-in
            input_ids=torch.tensor(rows, device=lm.device),
            attention_mask=torch.tensor(mask, device=lm.device),
            generation_config=greedy,
        )
    finally:
        lm.generation_config = own
    assert isinstance(whole, torch.Tensor)
    return whole[:, longest:].tolist()


def _cut(ids: Sequence[int], stops: frozenset[int], *, shortened: bool) -> Answer:
    """The answer before its first stop token."""
    end = next((place for place, id in enumerate(ids) if id in stops), None)
    return Answer(tuple(ids), False, shortened) if end is None else Answer(tuple(ids[:end]), True)
