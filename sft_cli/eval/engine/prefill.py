"""Keys and values of prompts, computed before generation: equal prompts once, and without padding where possible.

Shapes: B prompts, L tokens of the longest without its last one, K key/value heads, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sft_cli.batching.collate import collate, plan_micro_batches
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.eval.engine.choices import as_example
from sft_cli.eval.engine.prompts import Continuation
from sft_cli.model.adapter.prompt_learning import has_prepended_vectors
from sft_cli.model.attention.packing import (
    PACKED,
    document_arguments,
    use_default_attention,
    use_packed_attention,
)
from sft_cli.model.attention.rotary import install_document_rotary
from sft_cli.model.quant import causal_lm

BLOCK = 64
"""Tokens by which the memory of a cache grows."""
CACHE_BYTES = 2**24
"""Bytes of keys and values of packed prompts up to which a batch may exceed the padded tokens of its device."""
ROW_TOKENS = 1024
"""Largest number of tokens of a packed row: with the above it takes 42 MiB instead of 125 (bench_eval.py)."""


class GrowingLayer(DynamicLayer):
    """Keys and values in memory for more tokens than there are, so that a new token copies no earlier ones."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values ``(B, K, tokens, D)``, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        kept_keys, kept_values = self.keys, self.values
        assert kept_keys is not None, "the layer is initialized"
        assert kept_values is not None, "the layer is initialized"
        length = self.get_seq_length()
        end = length + key_states.shape[2]
        rooms = self._room
        # The keys lie elsewhere once rows were selected.
        if rooms is None or rooms[0].data_ptr() != kept_keys.data_ptr() or rooms[0].shape[2] < end:
            rooms = self._room = (self._grown(kept_keys, key_states, end), self._grown(kept_values, value_states, end))
        for room, states in zip(rooms, (key_states, value_states), strict=True):
            room[:, :, length:end] = states
        self.keys, self.values = (room[:, :, :end] for room in rooms)
        return self.keys, self.values

    @staticmethod
    def _grown(kept: Tensor, states: Tensor, end: int) -> Tensor:
        """Return memory for ``BLOCK`` tokens more than ``end``, with those that are kept."""
        batch, heads, _, width = states.shape
        room = states.new_empty(batch, heads, end + BLOCK, width)
        if kept.numel():
            room[:, :, : kept.shape[2]] = kept
        return room


def can_pack_prompts(model: nn.Module) -> bool:
    """Return whether the prompts of this model can be computed in packed rows.

    Its packed attention was found to be correct (it is in use), every layer keeps plain keys and values, and its rotary
    embeddings do not depend on the length. On a CPU only: packed prompts were not measured elsewhere.
    """
    lm = causal_lm(model)
    plain = {DynamicLayer, DynamicSlidingWindowLayer}
    return (
        lm.device.type == "cpu"
        and lm.config._attn_implementation == PACKED
        and not lm._is_stateful
        and not has_prepended_vectors(model)
        and not install_document_rotary(model)
        and {type(layer) for layer in DynamicCache(config=lm.config).layers} <= plain
    )


def cached_tokens(lm: PreTrainedModel) -> int:
    """Return the number of tokens whose keys and values have ``CACHE_BYTES``."""
    text = lm.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return CACHE_BYTES // (2 * text.num_hidden_layers * heads * width * lm.dtype.itemsize)


def packed_cache(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], *, max_tokens: int, share_prefixes: bool
) -> DynamicCache | None:
    """Return the keys and values of all ids but the last, padded on the left; each prompt is computed once.

    Args:
        model: A model of ``can_pack_prompts`` with its default attention, which it has afterwards.
        prompts: The prompts.
        max_tokens: Largest number of tokens of a packed row.
        share_prefixes: Whether ids that prompts have in common at the start are computed once.

    Returns:
        None if no prompt has more than one id, or if not every layer keeps keys and values of its own.
    """
    unique = [ids for ids in dict.fromkeys(prompts) if len(ids) > 1]
    if not unique:
        return None
    lm = causal_lm(model)
    places = {ids: [number for number, other in enumerate(prompts) if other == ids] for ids in unique}
    examples = [as_example(Continuation(ids[:-1], ids[-1:])) for ids in unique]
    share = Choice.always if share_prefixes else Choice.never
    plan = plan_micro_batches(examples, max_tokens=min(max_tokens, ROW_TOKENS), share_prefixes=share)
    length, padded = max(map(len, unique)) - 1, []
    use_packed_attention(model)
    try:
        for row in filter(None, plan.partition[0]):
            prefixes = None if plan.prefixes is None else plan.prefixes.restrict(row)
            batch = collate([examples[index] for index in row], Reduction.token, prefixes=prefixes)
            found = DynamicCache()
            with torch.no_grad():
                lm.base_model(
                    input_ids=batch.input_ids,
                    position_ids=batch.positions,
                    past_key_values=found,
                    **document_arguments(batch.documents),
                )
            if len(found.layers) != len(DynamicCache(config=lm.config).layers):
                return None
            sources = _token_positions(batch.documents, batch.target_at.tolist())
            targets = [places[unique[index]] for index in row]
            if not padded:
                padded = [_empty_states(layer, len(prompts), length) for layer in found.layers]
            _scatter(found, padded, sources, targets)
    finally:
        use_default_attention(model)
    return _filled(lm, padded, length)


def _token_positions(row: Any, last: Sequence[int]) -> list[Tensor]:
    """Return the positions in the row of the tokens of each prompt, which ends at a position of ``last``."""
    if row.key_positions is None:
        return [torch.arange(start, end) for start, end in zip(row.cu_keys[:-1], row.cu_keys[1:], strict=True)]
    starts, keys = row.cu_queries.tolist(), row.cu_keys.tolist()
    found = []
    for end in last:
        segment = max(number for number in range(len(row.lengths)) if starts[number] <= end)
        after = starts[segment + 1] - 1 - end
        found.append(row.key_positions[keys[segment] : keys[segment + 1] - after])
    return found


def _empty_states(layer: Any, prompts: int, length: int) -> tuple[Tensor, Tensor]:
    """Return zeros for the keys and values ``(B, K, L + BLOCK, D)`` of a layer."""
    keys, values = (
        states.new_zeros(prompts, states.shape[1], length + BLOCK, states.shape[3])
        for states in (layer.keys, layer.values)
    )
    return keys, values


def _scatter(
    found: DynamicCache,
    padded: Sequence[tuple[Tensor, Tensor]],
    sources: Sequence[Tensor],
    targets: Sequence[Sequence[int]],
) -> None:
    """Copy the states of a row to the ends of the padded prompts.

    Args:
        found: Keys and values of the row.
        padded: Those of the prompts, by layer.
        sources: The positions in the row of each prompt.
        targets: The numbers of each prompt.
    """
    for layer, own in zip(found.layers, padded, strict=True):
        assert isinstance(layer, DynamicLayer)
        for states, room in zip((layer.keys, layer.values), own, strict=True):
            assert states is not None, "the row was computed"
            length = room.shape[2] - BLOCK
            for positions, numbers in zip(sources, targets, strict=True):
                part = states[0].index_select(1, positions)
                for number in numbers:
                    room[number, :, length - len(positions) : length] = part


def _filled(lm: PreTrainedModel, padded: Sequence[tuple[Tensor, Tensor]], length: int) -> DynamicCache:
    """Return the cache with these keys and values."""
    cache = DynamicCache(config=lm.config)
    for number, (keys, values) in enumerate(padded):
        layer = cache.layers[number]
        if type(layer) is DynamicLayer:
            layer = cache.layers[number] = GrowingLayer()
            layer.lazy_initialization(keys, values)
            layer._room = (keys, values)
            layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
        else:
            assert isinstance(layer, DynamicSlidingWindowLayer), "see can_pack_prompts"
            layer.update(keys[:, :, :length], values[:, :, :length])
    return cache


def shared_cache(
    lm: PreTrainedModel, prompts: Sequence[tuple[int, ...]], rows: Tensor, mask: Tensor
) -> DynamicCache | None:
    """Return the keys and values of all ids but the last, computed once for equal prompts.

    None if all prompts differ, or if the model keeps anything else from token to token.

    Args:
        lm: The causal LM.
        prompts: The prompts.
        rows: Their ids ``(B, L + 1)``, padded on the left.
        mask: 0 for padding.
    """
    first = {ids: index for index, ids in reversed(list(enumerate(prompts)))}
    if len(first) == len(prompts) or rows.shape[1] < 2 or lm._is_stateful:
        return None
    chosen = sorted(first.values())
    place = {prompts[index]: number for number, index in enumerate(chosen)}
    own_mask = mask[chosen, :-1]
    cache = DynamicCache(config=lm.config)
    with torch.no_grad():
        lm.base_model(
            input_ids=rows[chosen, :-1],
            attention_mask=own_mask,
            position_ids=(own_mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
        )
    cache.batch_select_indices(torch.tensor([place[ids] for ids in prompts], device=rows.device))
    return cache
