"""Checkpointed layers whose inputs wait for the backward pass in pinned main memory, moved while others compute."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

SMALLEST = 1 << 16
"""Tensors with fewer elements stay where they are."""


class Away:
    """A tensor that is away in main memory.

    Attributes:
        stored: Its copy there.
        device: Where it belongs.
        before: The tensor that the backward pass will want next, if there is one.
        back: The tensor on its way back, or arrived.
    """

    def __init__(self, stored: Tensor, device: torch.device, before: "Away | None") -> None:
        self.stored, self.device, self.before = stored, device, before
        self.back: Tensor | None = None


class Offloader:
    """Runs layers under checkpointing and sends their inputs away; the next wanted one returns ahead of its use.

    Two inputs are on the device at once: the one in use and the one on its way. A second stream does the copying, so
    a copy hides behind the computation of a layer. Sending and fetching are ordered by that stream.
    """

    def __init__(self, device: torch.device, smallest: int = SMALLEST) -> None:
        """For layers on ``device``.

        Args:
            device: A CUDA device; a CPU works too, and gains nothing.
            smallest: Fewest elements of a tensor that is worth sending.
        """
        self.device, self.smallest = device, smallest
        self.runtime: Any = torch.get_device_module(device)
        self.stream = self.runtime.Stream()
        self._last: weakref.ref[Away] | None = None  # a strong one would keep the last row's tensors

    def checkpoint(self, place: int, function: Any, *args: Any) -> Any:
        """``function(*args)``, computed again in the backward pass from arguments that were away.

        Args:
            place: The layer's number; 0 begins a forward pass.
            function: The layer's forward.
            args: Its arguments.
        """
        if place == 0:
            self._last = None
        # Checkpointing hides the tensors within the layer from these hooks: they see its arguments alone.
        with saved_tensors_hooks(self.send, self.fetch):
            return checkpoint(function, *args, use_reentrant=False)

    def send(self, tensor: Tensor) -> Tensor | Away:
        """Start copying a tensor to main memory; small ones and those of no gradient's making stay."""
        if not tensor.is_floating_point() or tensor.numel() < self.smallest:
            return tensor
        pinned = self.device.type == "cuda"
        stored = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        self.stream.wait_stream(self.runtime.current_stream())  # it must have been computed
        with self.runtime.stream(self.stream):
            stored.copy_(tensor.detach(), non_blocking=True)
        if pinned:
            tensor.record_stream(self.stream)  # its memory must not be given away while it is read
        away = Away(stored, tensor.device, self._last() if self._last is not None else None)
        self._last = weakref.ref(away)
        return away

    def fetch(self, kept: Tensor | Away) -> Tensor:
        """The tensor on its device; the one wanted next starts its way back."""
        if isinstance(kept, Tensor):
            return kept
        self._start(kept)
        current = self.runtime.current_stream()
        current.wait_stream(self.stream)
        tensor, kept.back = kept.back, None
        assert tensor is not None
        if self.device.type == "cuda":
            tensor.record_stream(current)
        if kept.before is not None:
            self._start(kept.before)
        return tensor

    def _start(self, away: Away) -> None:
        """Start copying it back, unless that has begun."""
        if away.back is None:
            with self.runtime.stream(self.stream):
                away.back = away.stored.to(away.device, non_blocking=True, copy=True)
