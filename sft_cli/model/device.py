"""The device and the dtype of the computation."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sft_cli.config.schema.trainer import Device, Dtype, TrainerConfig
from sft_cli.distributed.rank_env import cuda_device_index, rank_from_env
from sft_cli.errors import SftError
from sft_cli.model.config_value import config_value

CPUINFO = Path("/proc/cpuinfo")
DTYPES = {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16}


BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
"""CPU flags of Linux for instructions that multiply bfloat16 matrices at least twice as fast as float32 ones."""
MIN_BF16_HIDDEN_SIZE = 256
"""Hidden size from which bfloat16 is much faster on such a CPU. Measured with LoRA on AVX512-BF16: a step of a model of
width 160 is 1.1 times as fast, layers of width 256 are 2.9 times as fast, of width 512 3.2 times."""


@dataclass(frozen=True, slots=True)
class ComputeSetup:
    """A device, and the dtype of its matrix products.

    Attributes:
        device: The device of the model.
        dtype: The compute dtype.
        reason: Why ``auto`` chose the dtype, as a clause for the log; empty if it was configured.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str = ""

    def precision(self) -> AbstractContextManager[object]:
        """Return the autocast context of training, which does nothing in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def choose_device(device: Device) -> torch.device:
    """Return the device for ``trainer.device``; each process of a run on a node gets its own CUDA device.

    Raises:
        SftError: CUDA was requested and there is none, or fewer devices than processes.
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
    rank = rank_from_env()
    if rank.world_size == 1:
        return torch.device("cuda")
    index = cuda_device_index(rank, torch.cuda.device_count())
    if index is None:
        raise SftError(
            where=f"process {rank.rank} of {rank.world_size}",
            problem=f"{rank.local_world_size} processes of this node want a CUDA device each, and torch sees"
            f" {torch.cuda.device_count()}",
            fix="launcher.nproc=auto, or trainer.device=cpu",
        )
    return torch.device("cuda", index)


def choose_compute_setup(
    trainer: TrainerConfig, architecture: PretrainedConfig | None = None, *, full: bool = False
) -> ComputeSetup:
    """Resolve ``trainer.device`` and ``trainer.dtype`` on this machine.

    On CUDA, TF32 products are allowed unless the dtype is float32: they have 10 bits of float32's 23-bit fraction.

    The same config on the same kind of machine always gets the same dtype: nothing is timed.

    Args:
        trainer: The keys device and dtype are read.
        architecture: The model's own configuration; without it, a CPU computes in float32.
        full: Whether the model's own weights are trained, not an adapter.

    Raises:
        SftError: This machine does not support it.
    """
    device = choose_device(trainer.device)
    setup = _choose_dtype(device, trainer, architecture, full=full)
    if device.type == "cuda":
        is_float32 = setup.dtype is torch.float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not is_float32
    return setup


def has_native_bfloat16() -> bool:
    """Return whether the current CUDA device multiplies in bfloat16; on older devices torch emulates it slowly."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _choose_dtype(
    device: torch.device, trainer: TrainerConfig, architecture: PretrainedConfig | None, *, full: bool
) -> ComputeSetup:
    """Resolve ``trainer.dtype`` on a device; see ``choose_compute_setup``."""
    if trainer.dtype is Dtype.auto and device.type == "cpu":
        hidden = None if architecture is None else config_value(architecture, "hidden_size")
        dtype, reason = choose_cpu_dtype(hidden, full)
        return ComputeSetup(device, dtype, reason)
    bfloat16 = device.type == "cpu" or has_native_bfloat16()
    if trainer.dtype is Dtype.auto:
        reason = "the GPU has bfloat16" if bfloat16 else "the GPU has no bfloat16"
        return ComputeSetup(device, torch.bfloat16 if bfloat16 else torch.float16, reason)
    dtype = DTYPES[trainer.dtype]
    if (dtype is torch.float16 and device.type == "cpu") or (dtype is torch.bfloat16 and not bfloat16):
        raise SftError(
            where=f"trainer.dtype={trainer.dtype.value}",
            problem=f"this {device.type} device cannot train in {trainer.dtype.value}",
            fix="trainer.dtype=auto",
        )
    return ComputeSetup(device, dtype)


def choose_cpu_dtype(hidden: int | None, full: bool, cpuinfo: Path = CPUINFO) -> tuple[torch.dtype, str]:
    """Return the dtype for ``auto`` on a CPU, and the reason: bfloat16 for adapters if it is faster.

    Args:
        hidden: The model's hidden size; None if it is unknown.
        full: Whether the model's own weights are trained.
        cpuinfo: Linux's description of the processor; missing on other systems.
    """
    if full:
        return torch.float32, "all weights are trained on a CPU"
    if hidden is None or hidden < MIN_BF16_HIDDEN_SIZE:
        return torch.float32, f"bfloat16 is faster from a hidden size of {MIN_BF16_HIDDEN_SIZE}"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set[str]())
    if fast_flags := sorted(BF16_CPU_FLAGS & flags):
        return torch.bfloat16, f"the processor has {fast_flags[0]}"
    return torch.float32, "the processor does not multiply in bfloat16"


def compute_dtype(operand: Tensor | PreTrainedModel) -> torch.dtype:
    """Return the dtype of matrix products with this operand: that of autocast if it is on, else the operand's."""
    kind = operand.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else operand.dtype


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Return the bytes that a run can still allocate on its device, within the container's limit.

    The processes of a run on one node share its main memory.

    Args:
        device: The device of the model.
        root: The directory that contains ``proc`` and ``sys``.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *_cgroup_free_memory(root)]) // rank_from_env().local_world_size


def _cgroup_free_memory(root: Path) -> Iterator[int]:
    """Yield the free bytes of each control group of this process that has a limit: its own group and all parents.

    Both versions of control groups are read. They count inactive file pages as used, but these can be reclaimed.
    """
    cgroup_file = root / "proc/self/cgroup"
    for line in cgroup_file.read_text().splitlines() if cgroup_file.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, limit, usage, idle = (
            (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
        )
        own_group = top / path.lstrip("/")
        for group in (own_group, *own_group.parents):
            if not group.is_relative_to(top) or not (group / limit).is_file():
                continue
            limit_text = (group / limit).read_text().strip()
            if limit_text != "max":
                pages = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                yield int(limit_text) - int((group / usage).read_text()) + int(pages.get(idle, 0))
