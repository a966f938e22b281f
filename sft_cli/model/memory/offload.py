"""Checkpointed layers whose inputs are offloaded to pinned main memory until the backward pass."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

MIN_ELEMENTS = 1 << 16
"""Tensors with fewer elements are not offloaded."""


class OffloadedTensor:
    """A tensor offloaded to main memory.

    Attributes:
        host_copy: The copy in main memory.
        device: The original device.
        next_wanted: The tensor that the backward pass needs next, if there is one.
        device_copy: The copy on the original device, possibly not yet complete.
    """

    def __init__(self, host_copy: Tensor, device: torch.device, next_wanted: "OffloadedTensor | None") -> None:
        self.host_copy, self.device, self.next_wanted = host_copy, device, next_wanted
        self.device_copy: Tensor | None = None


class Offloader:
    """Run layers with checkpointing, offload their inputs, and fetch the next input before it is needed.

    Two inputs are on the device at the same time: one in use and one being copied. A second stream copies, so that
    copies overlap with the computation of a layer, and are done in order.
    """

    def __init__(self, device: torch.device, min_elements: int = MIN_ELEMENTS) -> None:
        """Offload from ``device``.

        Args:
            device: A CUDA device; a CPU works as well, without a benefit.
            min_elements: Number of elements from which a tensor is offloaded.
        """
        self.device, self.smallest = device, min_elements
        self.runtime: Any = torch.get_device_module(device)
        self.stream = self.runtime.Stream()
        self._last: weakref.ref[OffloadedTensor] | None = (
            None  # a strong reference would keep the tensors of the last row
        )

    def checkpoint(self, index: int, function: Any, *args: Any) -> Any:
        """Run ``function(*args)``, recomputed in the backward pass from offloaded arguments.

        Args:
            index: The layer's index; 0 starts a forward pass.
            function: The layer's forward.
            args: Its arguments.
        """
        if index == 0:
            self._last = None
        # Inside a checkpointed layer these hooks are not called: they get only its arguments.
        with saved_tensors_hooks(self.send, self.fetch):
            return checkpoint(function, *args, use_reentrant=False)

    def send(self, tensor: Tensor) -> Tensor | OffloadedTensor:
        """Start copying a tensor to main memory; small and integer tensors stay."""
        if not tensor.is_floating_point() or tensor.numel() < self.smallest:
            return tensor
        is_cuda = self.device.type == "cuda"
        host_copy = torch.empty_like(tensor, device="cpu", pin_memory=is_cuda)
        self.stream.wait_stream(self.runtime.current_stream())  # it must have been computed
        with self.runtime.stream(self.stream):
            host_copy.copy_(tensor.detach(), non_blocking=True)
        if is_cuda:
            tensor.record_stream(self.stream)  # its memory must not be reused while it is read
        offloaded = OffloadedTensor(host_copy, tensor.device, self._last() if self._last is not None else None)
        self._last = weakref.ref(offloaded)
        return offloaded

    def fetch(self, saved: Tensor | OffloadedTensor) -> Tensor:
        """Return the tensor on its device, and start fetching the one needed next."""
        if isinstance(saved, Tensor):
            return saved
        self._start(saved)
        current = self.runtime.current_stream()
        current.wait_stream(self.stream)
        tensor, saved.device_copy = saved.device_copy, None
        assert tensor is not None
        if self.device.type == "cuda":
            tensor.record_stream(current)
        if saved.next_wanted is not None:
            self._start(saved.next_wanted)
        return tensor

    def _start(self, offloaded: OffloadedTensor) -> None:
        """Start copying a tensor back, unless this has started."""
        if offloaded.device_copy is None:
            with self.runtime.stream(self.stream):
                offloaded.device_copy = offloaded.host_copy.to(offloaded.device, non_blocking=True, copy=True)
