"""Compute the last decoder layer only at the positions whose output is needed: those that predict a trained token.

After the attention of the last layer no position depends on another one. The matrices there (the output projection and
the feed-forward block) get only the rows of ``PackedRow.read_positions``; all other rows become zeros, which are not
read.

Shapes: T tokens of the row, R needed positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_cli.batching.packed_row import PACKED_ROW_KWARG, PackedRow, pack_row
from sft_cli.model.attention.packing import document_arguments
from sft_cli.model.language_model import language_modules
from sft_cli.model.quant import causal_lm, evaluation_mode
from sft_cli.model.speed.fused_lora import FusedForward

TRIAL_TOKENS, TRIAL_POSITIONS = 8, (2, 3, 6)
"""Length of the trial row, and its needed positions, with other positions before, between and after them."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference between rows computed alone and with others."""


@dataclass
class NeededPositions:
    """A hook that records the positions needed in the current call of the last layer; None: all."""

    read_at: Tensor | None = None

    def __call__(self, attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Record the positions; as a hook of the attention, unlike one of the layer, it also runs on recomputation."""
        row = kwargs.get(PACKED_ROW_KWARG)
        self.read_at = row.read_positions if isinstance(row, PackedRow) else None


@dataclass(frozen=True)
class SelectiveForward:
    """The ``forward`` of a position-wise module.

    Attributes:
        needed: The positions whose output is needed.
        original: The original forward.
        was_on_instance: Whether the original forward was set on the instance.
    """

    needed: NeededPositions
    original: Any
    was_on_instance: bool

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``(1, T, width)``: the module's output at the needed positions, zeros elsewhere."""
        positions = self.needed.read_at
        if positions is None or args or kwargs or not torch.is_grad_enabled():
            return self.original(x, *args, **kwargs)
        rows = self.original(x.index_select(1, positions))
        return rows.new_zeros(1, x.shape[1], rows.shape[-1]).index_copy(1, positions, rows)


def skip_unused_positions(model: nn.Module) -> int | str:
    """Compute the last decoder layer only at the positions whose output is needed.

    Call it after ``fuse_lora``, when the model runs packed attention; ``restore_all_positions`` undoes it. Every module
    is first checked on a short row: its rows must not depend on each other, and the needed hidden states must be equal
    bit for bit if the other rows are filled with NaN.

    Returns:
        The number of modules that skip rows, or the reason why none does, as a clause.
    """
    restore_all_positions(model)
    lm = causal_lm(model)
    layers = [module for module in language_modules(lm).values() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        return "the family has no list of decoder layers"
    if "router_logits" in (lm._can_record_outputs or {}):
        return "the load-balancing loss of a mixture of experts needs all tokens"
    if lm.config.get_text_config().output_hidden_states:
        return "the model returns its hidden states"
    attention, candidates = attention_and_candidates(lm, layers[-1])
    if attention is None:
        return "its last layer has no attention that gets the documents"
    selected = [module for module in candidates if is_position_wise(lm, module) and ignores_other_rows(lm, module)]
    if not selected:
        return "no part of its last layer computes position by position"
    needed = NeededPositions()
    attention.register_forward_pre_hook(needed, with_kwargs=True)
    for module in selected:
        module.forward = SelectiveForward(needed, module.forward, "forward" in vars(module))
    return len(selected)


def restore_all_positions(model: nn.Module) -> None:
    """Undo ``skip_unused_positions``, if it ran. Call it before ``unfuse_lora``."""
    for module in model.modules():
        for handle_id in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, NeededPositions)]:
            del module._forward_pre_hooks[handle_id]
            module._forward_pre_hooks_with_kwargs.pop(handle_id, None)
        if isinstance(forward := vars(module).get("forward"), SelectiveForward):
            del module.forward
            if forward.was_on_instance:
                module.forward = forward.original


def attention_and_candidates(lm: PreTrainedModel, layer: nn.Module) -> tuple[nn.Module | None, list[nn.Module]]:
    """Return the attention of a layer (the child that gets the documents) and the modules that may be position-wise."""
    attention_modules: list[nn.Module] = []
    before_attention: list[nn.Module] = []  # modules that run before the hook of the attention

    def watch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Record a module as attention, or as one that runs before attention."""
        if PACKED_ROW_KWARG in kwargs:
            attention_modules.append(module)
        elif not attention_modules:
            before_attention.append(module)

    handles = [child.register_forward_pre_hook(watch, with_kwargs=True) for child in layer.children()]
    try:
        run_trial_row(lm)
    finally:
        for handle in handles:
            handle.remove()
    if len(attention_modules) != 1:
        return None, []
    children = [
        child
        for child in (*layer.children(), *attention_modules[0].children())
        if child not in (attention_modules[0], *before_attention)
    ]
    return attention_modules[0], [child for child in children if has_matrix(child) and not is_in_group(child)]


def is_in_group(module: nn.Module) -> bool:
    """Return whether the module is fused with others: queries could skip rows, but keys and values cannot."""
    forward = vars(module).get("forward")
    return isinstance(forward, FusedForward) and len(forward.group.layers) > 1


def has_matrix(module: nn.Module) -> bool:
    """Return whether the module has a matrix; for norms and activations, selecting rows costs more than it saves."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def is_position_wise(lm: PreTrainedModel, module: nn.Module) -> bool:
    """Return whether the module maps a tensor ``(1, T, width)`` to another one and computes each row separately."""
    calls: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(
        lambda _, args, kwargs, out: calls.append(((*args, *kwargs.values()), out)), with_kwargs=True
    )
    try:
        run_trial_row(lm)
    finally:
        handle.remove()
    if len(calls) != 1 or len(calls[0][0]) != 1 or not isinstance(calls[0][1], Tensor):
        return False
    (x,), out = calls[0]
    if out.dim() != 3 or out.shape[:2] != (1, TRIAL_TOKENS) or x.shape[:2] != (1, TRIAL_TOKENS):
        return False
    with evaluation_mode(lm):
        alone = module(x[:, list(TRIAL_POSITIONS)])
    expected = out[:, list(TRIAL_POSITIONS)].float()
    return bool((alone.float() - expected).abs().max() <= TOLERANCE[x.dtype] * expected.abs().max())


def ignores_other_rows(lm: PreTrainedModel, module: nn.Module) -> bool:
    """Return whether the hidden states at the needed positions do not depend on the module's other rows."""
    others = [index for index in range(TRIAL_TOKENS) if index not in TRIAL_POSITIONS]

    def fill_with_nan(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        """Replace the other rows by NaN."""
        filled = out.clone()
        filled[:, others] = torch.nan
        return filled

    clean = run_trial_row(lm)
    handle = module.register_forward_hook(fill_with_nan)
    try:
        return torch.equal(clean, run_trial_row(lm))
    finally:
        handle.remove()


def run_trial_row(lm: PreTrainedModel, read: Sequence[int] = TRIAL_POSITIONS) -> Tensor:
    """Return the final hidden states ``(R, width)`` at the needed positions of a short random row."""
    ids = torch.randint(
        lm.config.get_text_config().vocab_size, (1, TRIAL_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    row = pack_row([TRIAL_TOKENS]).to(lm.device)
    positions = torch.arange(TRIAL_TOKENS, device=lm.device)[None]
    with evaluation_mode(lm):
        decoded = lm.base_model(input_ids=ids.to(lm.device), position_ids=positions, **document_arguments(row))
    return decoded.last_hidden_state[0, list(read)]
