"""The last decoder layer computed only where its output is read: at the positions that predict a trained token.

Behind the attention of the last layer no position sees another. The matrices there (the output projection and the
feed-forward block) are given the rows of ``Documents.read_at`` alone; all other rows get zeros, which nobody reads.

Shapes: T tokens of the row, R read positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_cli.batching.packed_row import ARGUMENT, Documents, documents
from sft_cli.model.attention.packing import documents_arguments
from sft_cli.model.language_model import own_modules
from sft_cli.model.quant import causal_lm, evaluating
from sft_cli.model.speed.fused_lora import FusedForward

TOKENS, READ = 8, (2, 3, 6)
"""The row of the proof and its read positions: others lie before, between and behind."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of rows computed alone to the same rows among others."""


@dataclass
class Reading:
    """What the current call of the last layer is read at; None for all positions."""

    read_at: Tensor | None = None

    def __call__(self, attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Hook before the attention: it is called in recomputation too, unlike one before the layer."""
        row = kwargs.get(ARGUMENT)
        self.read_at = row.read_at if isinstance(row, Documents) else None


@dataclass(frozen=True)
class ReadForward:
    """The ``forward`` of a position-wise module.

    Attributes:
        reading: Where the output is read.
        own: The forward it had.
        replaced: Whether that forward stood on the instance.
    """

    reading: Reading
    own: Any
    replaced: bool

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(1, T, width)``: the module's output at the read positions, zeros elsewhere."""
        at = self.reading.read_at
        if at is None or args or kwargs or not torch.is_grad_enabled():
            return self.own(x, *args, **kwargs)
        rows = self.own(x.index_select(1, at))
        return rows.new_zeros(1, x.shape[1], rows.shape[-1]).index_copy(1, at, rows)


def skip_unread(model: nn.Module) -> int | str:
    """Let the last decoder layer compute what is read only; how many modules skip rows, or a clause why none does.

    Call it when the model runs packed attention, behind ``fuse``; undo it with ``read_all``. Every module is proven
    first, on a short row: its rows do not depend on each other, and whatever stands in its unread rows (they are
    filled with not-a-number) leaves the read hidden states as they are, to the bit.
    """
    read_all(model)
    lm = causal_lm(model)
    layers = [module for module in own_modules(lm).values() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        return "the family has no list of decoder layers"
    if "router_logits" in (lm._can_record_outputs or {}):
        return "the routers of a mixture of experts are balanced over all tokens"
    if lm.config.get_text_config().output_hidden_states:
        return "the model returns its hidden states"
    attention, candidates = parts(lm, layers[-1])
    if attention is None:
        return "its last layer has no attention that is told the documents"
    taken = [module for module in candidates if row_by_row(lm, module) and unread(lm, module)]
    if not taken:
        return "no part of its last layer computes position by position"
    reading = Reading()
    attention.register_forward_pre_hook(reading, with_kwargs=True)
    for module in taken:
        module.forward = ReadForward(reading, module.forward, "forward" in vars(module))
    return len(taken)


def read_all(model: nn.Module) -> None:
    """Undo ``skip_unread``; does nothing where it did not run. Undo it before ``unfuse``."""
    for module in model.modules():
        for number in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, Reading)]:
            del module._forward_pre_hooks[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)
        if isinstance(mine := vars(module).get("forward"), ReadForward):
            del module.forward
            if mine.replaced:
                module.forward = mine.own


def parts(lm: PreTrainedModel, layer: nn.Module) -> tuple[nn.Module | None, list[nn.Module]]:
    """The attention of a layer (the child that is told the documents), and what may compute position by position."""
    told: list[nn.Module] = []
    early: list[nn.Module] = []  # what the hook before the attention comes too late for

    def watch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if ARGUMENT in kwargs:
            told.append(module)
        elif not told:
            early.append(module)

    handles = [child.register_forward_pre_hook(watch, with_kwargs=True) for child in layer.children()]
    try:
        trial(lm)
    finally:
        for handle in handles:
            handle.remove()
    if len(told) != 1:
        return None, []
    children = [child for child in (*layer.children(), *told[0].children()) if child not in (told[0], *early)]
    return told[0], [child for child in children if has_matrix(child) and not grouped(child)]


def grouped(module: nn.Module) -> bool:
    """Whether it is computed together with others: queries could skip rows, but keys and values cannot."""
    own = vars(module).get("forward")
    return isinstance(own, FusedForward) and len(own.group.layers) > 1


def has_matrix(module: nn.Module) -> bool:
    """Whether there is anything to save: norms and activations cost less than picking rows does."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def row_by_row(lm: PreTrainedModel, module: nn.Module) -> bool:
    """Whether the module takes and gives one tensor ``(1, T, width)`` and computes every row by itself."""
    seen: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(
        lambda _, args, kwargs, out: seen.append(((*args, *kwargs.values()), out)), with_kwargs=True
    )
    try:
        trial(lm)
    finally:
        handle.remove()
    if len(seen) != 1 or len(seen[0][0]) != 1 or not isinstance(seen[0][1], Tensor):
        return False
    (x,), out = seen[0]
    if out.dim() != 3 or out.shape[:2] != (1, TOKENS) or x.shape[:2] != (1, TOKENS):
        return False
    with evaluating(lm):
        alone = module(x[:, list(READ)])
    wanted = out[:, list(READ)].float()
    return bool((alone.float() - wanted).abs().max() <= TOLERANCE[x.dtype] * wanted.abs().max())


def unread(lm: PreTrainedModel, module: nn.Module) -> bool:
    """Whether the hidden states at the read positions ignore the module's other rows."""
    others = [place for place in range(TOKENS) if place not in READ]

    def spoil(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        spoiled = out.clone()
        spoiled[:, others] = torch.nan
        return spoiled

    clean = trial(lm)
    handle = module.register_forward_hook(spoil)
    try:
        return torch.equal(clean, trial(lm))
    finally:
        handle.remove()


def trial(lm: PreTrainedModel, read: Sequence[int] = READ) -> Tensor:
    """Final hidden states ``(R, width)`` at the read positions of a short random row."""
    ids = torch.randint(lm.config.get_text_config().vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    row = documents([TOKENS]).to(lm.device)
    positions = torch.arange(TOKENS, device=lm.device)[None]
    with evaluating(lm):
        decoded = lm.base_model(input_ids=ids.to(lm.device), position_ids=positions, **documents_arguments(row))
    return decoded.last_hidden_state[0, list(read)]
