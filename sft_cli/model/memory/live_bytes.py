"""How many bytes of tensors live at a time, told by watching every operation; works on tensors without contents too."""

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Live(TorchDispatchMode):
    """Counts the storages that operations within it make, until they are gone.

    Attributes:
        now: Bytes that live.
        most: The most so far, or since ``again``.
        attended: Bytes that torch's attention kernel for CPUs has returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.attended = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the operation returns."""
        returned = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, returned)
        if func is KERNEL:
            self.attended += sum(one.untyped_storage().nbytes() for one in returned)
        return returned

    def again(self) -> None:
        """Begin a new maximum."""
        self.most = self.now

    def ignore(self, tensor: Tensor) -> None:
        """Do not count a tensor that was there before."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = weakref.ref(storage)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, partial(self._gone, key, size))
            self.now += size
            self.most = max(self.most, self.now)
        return tensor

    def _gone(self, key: int, size: int, _: Any) -> None:
        del self._known[key]
        self.now -= size
