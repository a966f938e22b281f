"""Where and in which type a run computes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sft_cli.config.schema.trainer import Device, Dtype, TrainerConfig
from sft_cli.distributed.rank_env import place_of
from sft_cli.errors import SftError

CPUINFO = Path("/proc/cpuinfo")
DTYPES = {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16}


HALF_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Processors that multiply bfloat16 matrices at twice or more the speed of float32, as Linux names the instructions."""
WORTHWHILE = 256
"""Hidden size from which bfloat16 pays on such a CPU. Measured with LoRA on AVX512-BF16: a step of a 160 wide model 1.1
times as fast, layers 256 wide 2.9 times, 512 wide 3.2 times."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A device, and the type of its matrix products.

    Attributes:
        device: Where the model computes.
        dtype: The compute type.
        reason: Why ``auto`` chose it, as a clause for the log; empty where it was asked for.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str = ""

    def precision(self) -> AbstractContextManager[object]:
        """Autocast as training has it; nothing in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def choose_device(device: Device) -> torch.device:
    """What ``trainer.device`` means here; each process of a run on a node has its own CUDA device.

    Raises:
        SftError: CUDA is asked for, and there is none, or not enough of it.
    """
    cuda = torch.cuda.is_available()
    if device is Device.cuda and not cuda:
        raise SftError(
            where="trainer.device=cuda",
            problem="torch sees no CUDA device here",
            fix="trainer.device=cpu, or find out why: nvidia-smi, python -c 'import torch; print(torch.version.cuda)'",
        )
    if not cuda or device is Device.cpu:
        return torch.device("cpu")
    place = place_of()
    if place.size == 1:
        return torch.device("cuda")
    if place.local_rank >= torch.cuda.device_count():
        raise SftError(
            where=f"process {place.rank} of {place.size}",
            problem=f"{place.local_size} processes of this node want a CUDA device each, and torch sees"
            f" {torch.cuda.device_count()}",
            fix="launcher.nproc=auto, or trainer.device=cpu",
        )
    return torch.device("cuda", place.local_rank)


def choose_machine(
    trainer: TrainerConfig, architecture: PretrainedConfig | None = None, *, whole: bool = False
) -> Machine:
    """What ``trainer.device`` and ``trainer.dtype`` mean here; TF32 products are allowed on CUDA.

    The same config on the same kind of machine always gets the same type: nothing is timed.

    Args:
        trainer: Its keys device and dtype.
        architecture: The model's own configuration; None computes in float32 on a CPU.
        whole: The model's own weights are trained, not an adapter.

    Raises:
        SftError: This machine cannot do it.
    """
    device = choose_device(trainer.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if trainer.dtype is Dtype.auto and device.type == "cpu":
        dtype, reason = cpu_dtype(None if architecture is None else architecture.get_text_config().hidden_size, whole)
        return Machine(device, dtype, reason)
    if trainer.dtype is Dtype.auto:
        reason = "the card has bfloat16" if bfloat16 else "the card has no bfloat16"
        return Machine(device, torch.bfloat16 if bfloat16 else torch.float16, reason)
    dtype = DTYPES[trainer.dtype]
    if (dtype is torch.float16 and device.type == "cpu") or (dtype is torch.bfloat16 and not bfloat16):
        raise SftError(
            where=f"trainer.dtype={trainer.dtype.value}",
            problem=f"the {device.type} device here does not train in it",
            fix="trainer.dtype=auto",
        )
    return Machine(device, dtype)


def cpu_dtype(hidden: int | None, whole: bool, cpuinfo: Path = CPUINFO) -> tuple[torch.dtype, str]:
    """What ``auto`` is on a CPU, and why: bfloat16 under an adapter where processor and model are made for it.

    Args:
        hidden: The model's hidden size; None where it is not known.
        whole: The model's own weights are trained.
        cpuinfo: What Linux tells about the processor; absent elsewhere.
    """
    if whole:
        return torch.float32, "all weights are trained on a CPU"
    if hidden is None or hidden < WORTHWHILE:
        return torch.float32, f"bfloat16 is faster from a hidden size of {WORTHWHILE}"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set[str]())
    if found := sorted(HALF_FLAGS & flags):
        return torch.bfloat16, f"the processor has {found[0]}"
    return torch.float32, "the processor does not multiply in bfloat16"


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that a run may still take: of the CUDA device, or of main memory and the container's share of it.

    Processes of a run on one node share its main memory.

    Args:
        device: Where the model computes.
        root: The file system with ``proc`` and ``sys``.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *_left_in_groups(root)]) // place_of().local_size


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the control groups of Linux leave this process: its own group's limit, and those of all groups above.

    Both versions of their files are read. Pages of files that nobody uses count as used there, but can be had.
    """
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, limit, usage, idle = (
            (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
        )
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(top) or not (group / limit).is_file():
                continue
            most = (group / limit).read_text().strip()
            if most != "max":
                pages = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                yield int(most) - int((group / usage).read_text()) + int(pages.get(idle, 0))


def compute_dtype(operand: Tensor | PreTrainedModel) -> torch.dtype:
    """The type a product with this operand (or model) runs in: autocast's if it is on, else the operand's own."""
    kind = operand.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else operand.dtype
