"""What a forward pass keeps for the backward pass, and what the backward pass needs beside it, by decoder layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, AttentionMaskInterface

from sft_cli.model.attention.attention_function import CannotPack
from sft_cli.model.attention.kernels import forget_masks
from sft_cli.model.attention.packing import packed_arguments, use_packed
from sft_cli.model.device import Machine
from sft_cli.model.memory.fake_model import OneExpert, give_substance, proven_norms
from sft_cli.model.memory.layer_dedup import share_alike
from sft_cli.model.memory.layer_peaks import decoder_layers, passages
from sft_cli.model.memory.live_bytes import Live
from sft_cli.model.quant import causal_lm
from sft_cli.model.speed.rms_norm import NormForward

COUNTED = "sft_counted"
"""The attention of a counting run."""


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward pass.

    Attributes:
        layers: By each decoder layer that can be recomputed.
        rest: Outside of them: embedding, last norm, positions; everything for families without such layers.
        layer_input: The input of one layer.
        attention: The output of one layer's attention kernel, and its log-sum-exp.
        passing: Most bytes that the backward pass of a layer has beside all of that: gradients on their way.
    """

    layers: tuple[int, ...]
    rest: int
    layer_input: int
    attention: int
    passing: int = 0

    def towards(self, other: "Kept", rate: float) -> "Kept":
        """The point on the straight line through both; 0 is this one and 1 the other."""

        def between(one: int, two: int) -> int:
            return max(0, round(one + rate * (two - one)))

        layers = tuple(between(one, two) for one, two in zip(self.layers, other.layers, strict=True))
        names = ("rest", "layer_input", "attention", "passing")
        return Kept(layers, **{name: between(getattr(self, name), getattr(other, name)) for name in names})


_counter: ContextVar["Counter | None"] = ContextVar("sft_counter", default=None)


class CountedAttention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: query, key, value, output, and a float32 log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``(rows, length, heads, width)`` of no meaning."""
        output = query.new_empty(*query.shape[:3], value.shape[-1]).transpose(1, 2)
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        if (counter := _counter.get()) is not None:
            counter.kernel(output, sums)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of no meaning."""
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


def counted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers that keeps what a fused kernel keeps, and computes nothing."""
    return CountedAttention.apply(query, key, value), None  # pyright: ignore[reportReturnType]


def kept_by_layers(
    model: nn.Module, rows: Sequence[Sequence[int]], machine: Machine, *, fused: bool, packed: bool = True
) -> list[Kept]:
    """What rows of documents leave for the backward pass, parameters left out; one answer for each row.

    The model computes on tensors without contents. On a CPU its attention is the packed one; on CUDA, which need not be
    here, one that keeps what a fused kernel keeps.

    Args:
        model: A causal LM, with its adapter, on the meta device; it is of no use afterwards.
        rows: Tokens of the documents of each row.
        machine: Device and type it would compute in.
        fused: Norms are cheap, and LoRA layers that read the same input are computed together, where that is possible.
        packed: A row may hold several documents.
    """
    AttentionInterface.register(COUNTED, counted_attention)
    AttentionMaskInterface.register(COUNTED, lambda *_, **__: None)
    norms = proven_norms(model) if fused else {}
    here, lm = Machine(torch.device("cpu"), machine.dtype), causal_lm(model)
    real = packed and machine.device.type == "cpu"
    given = [packed_arguments(row, here.device) if real else {"use_cache": False} for row in rows]
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_substance(model, here.device)
        alike = share_alike(decoder_layers(model))
        if fused:
            from sft_cli.model.speed.fused_lora import fuse

            for norm, how in norms.items():
                norm.forward = NormForward(norm, *how)
            with here.precision(), OneExpert():
                fuse(model)
        if not any(value.requires_grad for value in lm.base_model.parameters()):
            # Trained vectors stand before the text: what is behind them needs gradients as if it were trained.
            lm.get_input_embeddings().register_forward_hook(lambda _, __, states: states.requires_grad_())
        for value in model.parameters():
            if value.requires_grad:
                value.grad = torch.zeros_like(value)
        found = []
        for row, arguments in zip(rows, given, strict=True):
            try:
                use_packed(model) if real else lm.set_attn_implementation(COUNTED)
                found.append(counted(model, sum(row), arguments, here, alike))
            except (CannotPack, RuntimeError):
                if not real:
                    raise
                lm.set_attn_implementation(COUNTED)
                found.append(counted(model, sum(row), {"use_cache": False}, here, alike))
    forget_masks()
    return found


def counted(
    model: nn.Module, tokens: int, arguments: dict[str, Any], machine: Machine, alike: Mapping[int, int]
) -> Kept:
    """What a row leaves, and what its backward pass needs beside it."""
    lm = causal_lm(model)
    with Live() as live, OneExpert(), passages(model, live) as seen:
        for value in (*model.parameters(), *model.buffers()):
            live.ignore(value)
            if value.grad is not None:
                live.ignore(value.grad)
        with machine.precision(), counting(model) as counter:
            ids = torch.zeros(1, tokens, dtype=torch.long, device=machine.device)
            states = lm.base_model(input_ids=ids, **arguments)[0]
            assert states.requires_grad, "nothing is trained"
        kept = counter.result()
        rest = seen.first + live.now - seen.last
        gradient = torch.empty_like(states)
        seen.enter(-1, live.now - gradient.untyped_storage().nbytes())
        states.backward(gradient)
        seen.leave()
    layers = tuple(seen.kept[alike.get(place, place)] for place in range(len(seen.kept)))
    attention = max(kept.attention, seen.attended)
    return Kept(layers, rest, kept.layer_input, attention, max(seen.passing.values()))


class Counter:
    """Storages that autograd was given, each once, under the layer that ran."""

    def __init__(self, own: set[int], num_layers: int) -> None:
        self._seen, self._alive = own, list[Tensor]()
        self.layers, self.inputs, self.rest, self.attention = [0] * num_layers, [0] * num_layers, 0, [0] * num_layers
        self.current: int | None = None

    def kernel(self, output: Tensor, sums: Tensor) -> None:
        """Note the size of an attention kernel's results."""
        if self.current is not None:
            self.attention[self.current] += output.untyped_storage().nbytes() + sums.untyped_storage().nbytes()

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor; it is kept alive, so that no other gets its place."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            if self.current is None:
                self.rest += storage.nbytes()
            else:
                self.layers[self.current] += storage.nbytes()
        return tensor

    def result(self, alike: Mapping[int, int] | None = None) -> Kept:
        """What was counted; layers that stood in for another (``share_alike``) keep what that one keeps."""
        standing = alike or {}
        layers = tuple(self.layers[standing.get(place, place)] for place in range(len(self.layers)))
        return Kept(layers, self.rest, max(self.inputs, default=0), max(self.attention, default=0))


@contextmanager
def counting(model: nn.Module) -> Iterator[Counter]:
    """Count what autograd keeps within, by the decoder layers of ``model``."""
    layers = decoder_layers(model)
    counter = Counter({value.untyped_storage()._cdata for value in model.parameters()}, len(layers))

    def enter(place: int) -> Any:
        def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            counter.current = place
            if arguments:
                counter.inputs[place] = arguments[0].untyped_storage().nbytes()

        return before

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        counter.current = None

    handles = [layer.register_forward_pre_hook(enter(place)) for place, layer in enumerate(layers)]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    token = _counter.set(counter)
    try:
        with saved_tensors_hooks(counter.keep, lambda tensor: tensor):
            yield counter
    finally:
        _counter.reset(token)
        for handle in handles:
            handle.remove()
