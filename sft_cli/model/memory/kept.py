"""What a forward pass keeps for the backward pass, counted by decoder layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_cli.model.machine import Machine
from sft_cli.model.memory.alike import share_alike
from sft_cli.model.quant import causal_lm

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
    """

    layers: tuple[int, ...]
    rest: int
    layer_input: int
    attention: int

    def towards(self, other: "Kept", rate: float) -> "Kept":
        """The point on the straight line through both; 0 is this one and 1 the other."""

        def between(one: int, two: int) -> int:
            return max(0, round(one + rate * (two - one)))

        layers = tuple(between(one, two) for one, two in zip(self.layers, other.layers, strict=True))
        names = ("rest", "layer_input", "attention")
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
        """A counting run has no backward pass."""
        raise AssertionError("nothing is computed")


def counted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers that keeps what a fused kernel keeps, and computes nothing."""
    return CountedAttention.apply(query, key, value), None  # pyright: ignore[reportReturnType]


def kept_by_layers(model: nn.Module, lengths: Sequence[int], machine: Machine, *, fused: bool) -> list[Kept]:
    """What rows of so many tokens leave for the backward pass, parameters left out; one answer for each length.

    Args:
        model: A causal LM, with its adapter, on the meta device; it is of no use afterwards.
        lengths: Tokens of each row; bounds of documents do not change what is kept.
        machine: Device and type it would compute in.
        fused: LoRA layers that read the same input are computed together, where that is possible.
    """
    AttentionInterface.register(COUNTED, counted_attention)
    AttentionMaskInterface.register(COUNTED, lambda *_, **__: None)
    with FakeTensorMode():
        give_substance(model, machine.device)
        alike = share_alike(decoder_layers(model))
        if fused:
            from sft_cli.model.speed.fused import fuse

            with machine.precision(), OneExpert():
                fuse(model)
        lm = causal_lm(model)
        lm.set_attn_implementation(COUNTED)
        if not any(value.requires_grad for value in lm.base_model.parameters()):
            # Trained vectors stand before the text: what is behind them needs gradients as if it were trained.
            lm.get_input_embeddings().register_forward_hook(lambda _, __, states: states.requires_grad_())
        found = []
        for length in lengths:
            with machine.precision(), OneExpert(), counting(model) as counter:
                ids = torch.zeros(1, length, dtype=torch.long, device=machine.device)
                states = lm.base_model(input_ids=ids, use_cache=False)[0]
                assert states.requires_grad, "nothing is trained"
            found.append(counter.result(alike))
    return found


def give_substance(model: nn.Module, device: torch.device) -> None:
    """Replace each meta tensor by one of the active fake mode, which has a device; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is not None and id(value) not in made:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                    trained = value.requires_grad
                    made[id(value)] = nn.Parameter(fake, trained) if isinstance(value, nn.Parameter) else fake
                if value is not None:
                    own[name] = made[id(value)]  # pyright: ignore[reportArgumentType]


class OneExpert(TorchFunctionMode):
    """Multiplies with the first expert's matrix where a grouped product is asked for.

    Sizes, and what is kept, are the same; torch knows the shape of a grouped product in bfloat16 only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the call returns."""
        if func is torch._grouped_mm:  # pyright: ignore[reportPrivateImportUsage]
            rows, matrices = args
            return rows @ matrices[0]
        return func(*args, **(kwargs or {}))


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


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers that can be recomputed, in the order of the forward pass; none for families without such layers."""
    inside = causal_lm(model).base_model.named_modules()
    layers = {name: layer for name, layer in inside if isinstance(layer, GradientCheckpointingLayer)}
    return [layer for name, layer in layers.items() if not any(name.startswith(f"{other}.") for other in layers)]
