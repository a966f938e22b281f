"""Count the tensors that a forward pass saves for the backward pass, and transient memory, by decoder layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface

from sft_cli.model.attention.attention_function import PackingUnsupported
from sft_cli.model.attention.kernels import AttentionSpec, clear_mask_cache
from sft_cli.model.attention.packing import packed_row_arguments, use_packed_attention
from sft_cli.model.attention.varlen import sum_rows
from sft_cli.model.device import ComputeSetup
from sft_cli.model.memory.fake_model import SingleExpertMode, materialize_fake, replaceable_norms
from sft_cli.model.memory.layer_dedup import share_identical_layers
from sft_cli.model.memory.layer_memory import (
    BEFORE_LAYERS,
    LiveBytes,
    active_memory,
    named_decoder_layers,
    track_layers,
)
from sft_cli.model.quant import causal_lm
from sft_cli.model.speed.rms_norm import NormForward

FAKE_ATTENTION = "sft_fake_attention"
"""Name of the attention function for counting."""


@dataclass(frozen=True)
class SavedBytes:
    """Bytes saved for the backward pass.

    Attributes:
        layers: Bytes of each decoder layer that can be recomputed.
        rest: Bytes outside of them: embedding, last norm, positions; all bytes for families without such layers.
        layer_input: Bytes of the input of one layer.
        attention: Bytes of the output of one layer's attention kernel, and its log-sum-exp.
        transient: Largest number of bytes that the backward pass of a layer needs in addition, such as gradients.
        has_block_mask: Whether the attention needs the block mask of flex attention.
        unknown: Why the bytes of this family cannot be counted, and are 0 here; empty if they are counted.
    """

    layers: tuple[int, ...]
    rest: int
    layer_input: int
    attention: int
    transient: int = 0
    has_block_mask: bool = False
    unknown: str = ""

    def interpolate(self, other: "SavedBytes", rate: float) -> "SavedBytes":
        """Return the bytes on the straight line through both: rate 0 is this object and 1 the other."""

        def between(first: int, second: int) -> int:
            return max(0, round(first + rate * (second - first)))

        return SavedBytes(
            tuple(between(first, second) for first, second in zip(self.layers, other.layers, strict=True)),
            between(self.rest, other.rest),
            between(self.layer_input, other.layer_input),
            between(self.attention, other.attention),
            between(self.transient, other.transient),
            self.has_block_mask,
            self.unknown or other.unknown,
        )


def unknown_bytes(num_layers: int, error: Exception) -> SavedBytes:
    """Return zero bytes, with the reason, for a model that cannot run on fake tensors."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SavedBytes((0,) * num_layers, 0, 0, 0, unknown=f"it needs the values of its tensors ({reason[:100]})")


class FakeAttention(torch.autograd.Function):
    """Save the tensors of a fused attention kernel: query, key, value, output, and a float32 log-sum-exp.

    The backward pass allocates the same tensors as that of ``SharedPrefixAttention``: copies of the keys and values
    that segments attend to, and their gradients.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, num_keys: int, is_plain: bool) -> Tensor:
        """Return ``(rows, length, heads, width)`` without meaningful values."""
        output = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        if (memory := active_memory.get()) is not None:
            memory.add_attention(output, sums, has_block_mask=not is_plain)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.num_keys = num_keys if is_plain else 0  # flex attention copies no keys
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return gradients without meaningful values."""
        query, key, value = ctx.saved_tensors[:3]
        if ctx.num_keys <= key.shape[2]:
            return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None
        copies = [part.new_empty(*part.shape[:2], ctx.num_keys, part.shape[3]) for part in (key, value)]
        into_query, into_copies = torch.empty_like(query), [torch.empty_like(copy) for copy in copies]
        del copies
        positions = torch.zeros(ctx.num_keys, dtype=torch.long, device=key.device)
        into_row = [sum_rows(copy[0].transpose(0, 1), positions, key.shape[2]) for copy in into_copies]
        return into_query, *(part.transpose(0, 1).unsqueeze(0) for part in into_row), None, None


def fake_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    keys_per_token: float = 1.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers that saves the tensors of a fused kernel but computes nothing."""
    num_keys = round(keys_per_token * key.shape[2])
    is_plain = AttentionSpec(softcap=softcap, sinks=s_aux).is_plain and query.shape[-1] == value.shape[-1]
    attended = FakeAttention.apply(query, key, value, num_keys, is_plain)
    return attended, None  # pyright: ignore[reportReturnType]


def count_saved_bytes(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    setup: ComputeSetup,
    *,
    fused: bool,
    packed: bool = True,
    keys_per_token: float = 1.0,
) -> list[SavedBytes]:
    """Count the bytes that each row of documents saves for the backward pass, without parameters.

    The model runs on fake tensors. For a CPU its attention is packed attention; for CUDA, which need not be available,
    a function that saves the same tensors as a fused kernel.

    Args:
        model: A causal LM, with its adapter, on the meta device; it cannot be used afterwards.
        rows: Numbers of tokens of the documents of each row.
        setup: Device and compute dtype of the run.
        fused: Whether to replace RMS norms and fuse LoRA layers that read the same input, if possible.
        packed: Whether a row may have several documents.
        keys_per_token: Number of keys that the segments of a row attend to per token of the row, on CUDA; shared keys
            count for each segment.
    """
    AttentionInterface.register(FAKE_ATTENTION, partial(fake_attention, keys_per_token=keys_per_token))
    AttentionMaskInterface.register(FAKE_ATTENTION, lambda *_, **__: None)
    norms = replaceable_norms(model) if fused else {}
    if setup.device.type == "cuda":  # those with an offset keep their own forward there, see ``NormForward``
        norms = {norm: (eps, offset) for norm, (eps, offset) in norms.items() if not offset}
    cpu_setup, lm = ComputeSetup(torch.device("cpu"), setup.dtype), causal_lm(model)
    use_packed = packed and setup.device.type == "cpu"
    row_arguments = [
        packed_row_arguments(row, cpu_setup.device) if use_packed else {"use_cache": False} for row in rows
    ]
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialize_fake(model, cpu_setup.device)
        duplicates = share_identical_layers(named_decoder_layers(model))
        if fused:
            from sft_cli.model.speed.fused_lora import fuse_lora

            for norm, eps_and_offset in norms.items():
                norm.forward = NormForward(norm, *eps_and_offset)
            with cpu_setup.precision(), SingleExpertMode():
                fuse_lora(model)
        _require_gradients(model)
        counts = []
        for row, arguments in zip(rows, row_arguments, strict=True):
            try:
                use_packed_attention(model) if use_packed else lm.set_attn_implementation(FAKE_ATTENTION)
                counts.append(_count_row(model, sum(row), arguments, cpu_setup, duplicates))
            except (PackingUnsupported, RuntimeError):
                if not use_packed:
                    raise
                lm.set_attn_implementation(FAKE_ATTENTION)
                counts.append(_count_row(model, sum(row), {"use_cache": False}, cpu_setup, duplicates))
    clear_mask_cache()
    return counts


def _require_gradients(model: nn.Module) -> None:
    """Let every layer compute gradients, and hold those of trained parameters, as in a step."""
    lm = causal_lm(model)
    if not any(value.requires_grad for value in lm.base_model.parameters()):
        # Trained vectors precede the text, so the layers compute gradients as if the text were trained.
        lm.get_input_embeddings().register_forward_hook(lambda _, __, states: states.requires_grad_())
    for value in model.parameters():
        if value.requires_grad:
            value.grad = torch.zeros_like(value)


def _count_row(
    model: nn.Module, tokens: int, arguments: dict[str, Any], setup: ComputeSetup, duplicates: Mapping[int, int]
) -> SavedBytes:
    """Count the bytes of one row."""
    lm = causal_lm(model)
    with LiveBytes() as live, SingleExpertMode(), track_layers(model, live) as memory:
        for value in (*model.parameters(), *model.buffers()):
            live.ignore(value)
            if value.grad is not None:
                live.ignore(value.grad)
        with setup.precision(), memory.record_attention():
            ids = torch.zeros(1, tokens, dtype=torch.long, device=setup.device)
            states = lm.base_model(input_ids=ids, **arguments)[0]
            assert states.requires_grad, "nothing is trained"
        rest = memory.before_first + live.now - memory.after_last
        gradient = torch.empty_like(states)
        memory.enter_backward(BEFORE_LAYERS, gradient)
        states.backward(gradient)
        memory.leave_backward()
    layers = tuple(memory.left[duplicates.get(index, index)] for index in range(len(memory.left)))
    layer_input = max(memory.inputs, default=0)
    transient = max(memory.transient.values())
    return SavedBytes(layers, rest, layer_input, memory.attention, transient, memory.has_block_mask)
