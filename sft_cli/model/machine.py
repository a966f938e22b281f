"""Where and in which type a run computes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from sft_cli.config.schema import Device, Dtype, TrainerConfig
from sft_cli.errors import SftError

DTYPES = {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16}


@dataclass(frozen=True, slots=True)
class Machine:
    """A device, and the type of its matrix products."""

    device: torch.device
    dtype: torch.dtype

    def precision(self) -> AbstractContextManager[object]:
        """Autocast as training has it; nothing in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def choose_device(device: Device) -> torch.device:
    """What ``trainer.device`` means here.

    Raises:
        SftError: CUDA is asked for, and there is none.
    """
    cuda = torch.cuda.is_available()
    if device is Device.cuda and not cuda:
        raise SftError(
            where="trainer.device=cuda",
            problem="torch sees no CUDA device here",
            fix="trainer.device=cpu, or find out why: nvidia-smi, python -c 'import torch; print(torch.version.cuda)'",
        )
    return torch.device("cuda" if cuda and device is not Device.cpu else "cpu")


def choose_machine(trainer: TrainerConfig) -> Machine:
    """What ``trainer.device`` and ``trainer.dtype`` mean here; TF32 products are allowed on CUDA.

    Raises:
        SftError: This machine cannot do it.
    """
    device = choose_device(trainer.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if trainer.dtype is Dtype.auto:
        half = torch.bfloat16 if bfloat16 else torch.float16
        return Machine(device, torch.float32 if device.type == "cpu" else half)
    dtype = DTYPES[trainer.dtype]
    if (dtype is torch.float16 and device.type == "cpu") or (dtype is torch.bfloat16 and not bfloat16):
        raise SftError(
            where=f"trainer.dtype={trainer.dtype.value}",
            problem=f"the {device.type} device here does not train in it",
            fix="trainer.dtype=auto",
        )
    return Machine(device, dtype)
