"""8-bit AdamW with its state in CUDA's unified memory; importing this module imports bitsandbytes."""

from typing import Any

from bitsandbytes.optim.adamw import PagedAdamW8bit
from torch import Tensor


class PagedAdamW(PagedAdamW8bit):
    """The paged AdamW of bitsandbytes, which stays paged when its state is loaded."""

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Load a state into paged memory, one tensor after another.

        bitsandbytes would move the whole state to the device, where it may not fit, and keep it there.
        """
        super().load_state_dict(state_dict, move_to_device=False)
        for parameter, state in self.state.items():
            for name, value in state.items():
                if name in ("state1", "state2"):
                    state[name] = self.get_state_buffer(parameter, dtype=value.dtype).copy_(value)
                elif isinstance(value, Tensor) and move_to_device:
                    state[name] = value.to(parameter.device)
