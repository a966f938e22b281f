"""8-bit AdamW with its state in CUDA's unified memory; importing this module imports bitsandbytes."""

from typing import Any

from bitsandbytes.optim.adamw import PagedAdamW8bit


class PagedAdamW(PagedAdamW8bit):
    """The paged AdamW of bitsandbytes, which stays paged when its state is loaded."""

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Load a state into paged memory; bitsandbytes would leave it on the device."""
        super().load_state_dict(state_dict, move_to_device)
        for parameter, state in self.state.items():
            for name in state.keys() & {"state1", "state2"}:
                buffer = self.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = buffer.copy_(state[name])
