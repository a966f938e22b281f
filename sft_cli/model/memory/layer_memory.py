"""Track memory by decoder layer: live tensors, tensors that autograd saved, and the peaks of the backward pass."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_cli.model.language_model import language_modules
from sft_cli.model.quant import causal_lm

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
BEFORE_LAYERS = -1
"""Key of the part of the backward pass before the last layer."""


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the layers that can be recomputed, in the order of the forward pass; empty for families without them."""
    return list(named_decoder_layers(model).values())


def named_decoder_layers(model: nn.Module) -> dict[str, GradientCheckpointingLayer]:
    """Return the same layers by their names in the causal LM."""
    # Image towers have such layers as well, which text does not reach.
    modules = language_modules(causal_lm(model)).items()
    layers = {name: layer for name, layer in modules if isinstance(layer, GradientCheckpointingLayer)}
    return {name: layer for name, layer in layers.items() if not any(name.startswith(f"{other}.") for other in layers)}


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that operations create inside the block, until they are freed; also of fake tensors.

    Attributes:
        now: Live bytes.
        peak: Largest number of live bytes since the start or the last ``reset_peak``.
        attention: Bytes that torch's attention kernel for CPUs has returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.attention = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its results."""
        returned = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, returned)
        if func is CPU_ATTENTION:
            self.attention += sum(tensor.untyped_storage().nbytes() for tensor in returned)
        return returned

    def reset_peak(self) -> None:
        """Start a new peak."""
        self.peak = self.now

    def ignore(self, tensor: Tensor) -> None:
        """Do not count a tensor, because it existed before."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = weakref.ref(storage)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, partial(self._free, key, size))
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor

    def _free(self, key: int, size: int, _: Any) -> None:
        del self._known[key]
        self.now -= size


class LayerMemory:
    """Bytes by decoder layer of one forward and backward pass.

    Attributes:
        live: The tracker of live bytes.
        before_first: Live bytes at the start of the first layer's forward pass.
        after_last: Live bytes at the end of the last layer's forward pass.
        left: By layer, bytes that are still live after its forward pass.
        inputs: By layer, bytes of its input.
        attention: Largest number of bytes that the attention kernel of a layer returned.
        has_block_mask: A layer attends by flex attention.
        saved: By layer, bytes that autograd saved, each storage once, without parameters (``record_saved``).
        saved_outside: The same outside of all layers.
        transient: By layer, the peak of its backward pass above the live bytes at its start; the incoming gradient
            counts as transient. ``BEFORE_LAYERS`` is the key for the modules after the last layer.
    """

    def __init__(self, live: LiveBytes, num_layers: int, parameters: set[int]) -> None:
        """Initialize all counters with zero.

        Args:
            live: The tracker of live bytes.
            num_layers: Number of decoder layers.
            parameters: Addresses of the storages that do not count as saved.
        """
        self.live, self.before_first, self.after_last, self.attention = live, 0, 0, 0
        self.left, self.inputs, self.saved = [0] * num_layers, [0] * num_layers, [0] * num_layers
        self.saved_outside, self.transient, self.has_block_mask = 0, dict[int, int](), False
        self._saved_storages, self._kept = parameters, list[Tensor]()
        self._layer: int | None = None
        self._live_at_entry = self._attention_at_entry = self._fake_attention = 0
        self._backward_layer, self._live_at_backward = BEFORE_LAYERS, 0

    def enter_forward(self, index: int, arguments: tuple[Any, ...]) -> None:
        """Record the start of a layer's forward pass."""
        self._live_at_entry, self._attention_at_entry, self._fake_attention = self.live.now, self.live.attention, 0
        if index == 0:
            self.before_first = self.live.now
        self._layer = index
        if arguments:
            self.inputs[index] = arguments[0].untyped_storage().nbytes()

    def leave_forward(self, index: int, output: Any) -> None:
        """Record the end of a layer's forward pass, and follow its gradient."""
        states = output[0] if isinstance(output, tuple) else output
        kernel = self.live.attention - self._attention_at_entry
        self.attention = max(self.attention, kernel, self._fake_attention)
        self.left[index], self.after_last = self.live.now - self._live_at_entry, self.live.now
        self._layer = None
        if states.requires_grad:
            states.register_hook(partial(self._enter_backward_of, index))

    def enter_backward(self, index: int, gradient: Tensor) -> None:
        """Record the start of a layer's backward pass; the incoming gradient counts as part of it."""
        self._backward_layer = index
        self._live_at_backward = self.live.now - gradient.untyped_storage().nbytes()
        self.live.reset_peak()

    def leave_backward(self) -> None:
        """Record the peak of the layer whose backward pass ends."""
        self.transient[self._backward_layer] = max(0, self.live.peak - self._live_at_backward)

    def _enter_backward_of(self, index: int, gradient: Tensor) -> None:
        self.leave_backward()
        self.enter_backward(index, gradient)

    def add_attention(self, output: Tensor, sums: Tensor, *, has_block_mask: bool) -> None:
        """Add the results of an attention that replaces a fused kernel, which may need a block mask."""
        self.has_block_mask |= has_block_mask
        if self._layer is not None:
            self._fake_attention += output.untyped_storage().nbytes() + sums.untyped_storage().nbytes()

    @contextmanager
    def record_attention(self) -> Iterator[None]:
        """Let the attention that replaces a fused kernel add its results inside the block."""
        token = active_memory.set(self)
        try:
            yield
        finally:
            active_memory.reset(token)

    @contextmanager
    def record_saved(self) -> Iterator[None]:
        """Count the tensors that autograd saves inside the block; they live as long as this object."""
        with saved_tensors_hooks(self._save, lambda tensor: tensor):
            yield

    def _save(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor and keep it alive, so that no other storage gets its address."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._saved_storages:
            self._saved_storages.add(storage._cdata)
            self._kept.append(tensor)
            if self._layer is None:
                self.saved_outside += storage.nbytes()
            else:
                self.saved[self._layer] += storage.nbytes()
        return tensor


active_memory: ContextVar[LayerMemory | None] = ContextVar("sft_layer_memory", default=None)


@contextmanager
def track_layers(model: nn.Module, live: LiveBytes) -> Iterator[LayerMemory]:
    """Track the decoder layers of ``model`` inside the block; ``live`` must be active."""
    layers = decoder_layers(model)
    parameters = {value.untyped_storage()._cdata for value in model.parameters()}
    memory = LayerMemory(live, len(layers), parameters)
    handles = [handle for index, layer in enumerate(layers) for handle in _register_hooks(layer, index, memory)]
    try:
        yield memory
    finally:
        for handle in handles:
            handle.remove()


def _register_hooks(layer: nn.Module, index: int, memory: LayerMemory) -> list[RemovableHandle]:
    """Report the start and the end of a layer's forward pass to ``memory``."""
    return [
        layer.register_forward_pre_hook(lambda _, arguments: memory.enter_forward(index, arguments)),
        layer.register_forward_hook(lambda _, __, output: memory.leave_forward(index, output)),
    ]
