"""GPUs by name: memory and speed from the makers' data sheets."""

import re
from dataclasses import dataclass

from sft_cli.errors import SftError

GB = 10**9
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GIB|G)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model.

    Attributes:
        name: Name as typed.
        memory: Memory in bytes.
        tflops: Dense 16-bit tensor operations, 10^12 per second; None where only the memory is known.
        bfloat16: Whether it supports bfloat16.
    """

    name: str
    memory: int
    tflops: float | None = None
    bfloat16: bool = True


GPUS = {
    name: Gpu(name, memory * GB, tflops, bfloat16)
    for name, memory, tflops, bfloat16 in (
        ("v100", 16, 125, False),
        ("v100-32gb", 32, 125, False),
        ("t4", 16, 65, False),
        ("a10", 24, 125, True),
        ("a10g", 24, 70, True),
        ("l4", 24, 121, True),
        ("l40s", 48, 362, True),
        ("a40", 48, 150, True),
        ("a6000", 48, 155, True),
        ("a100-40gb", 40, 312, True),
        ("a100", 80, 312, True),
        ("h100", 80, 989, True),
        ("h200", 141, 989, True),
        ("b200", 180, 2250, True),
        ("rtx3090", 24, 71, True),
        ("rtx4090", 24, 165, True),
        ("rtx5090", 32, 210, True),
    )
}
"""Makers' data sheets: dense bfloat16 (float16 where there is none) with float32 sums. A GB counts as 10^9 bytes: less
than most of these cards have, about what the smaller ones leave free for a program."""


def parse_gpu(word: str) -> Gpu:
    """Return the GPU of ``--gpu h100`` or ``--gpu 24GB``.

    Raises:
        SftError: The word is neither a known name nor a size.
    """
    plain = word.lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-").replace("rtx-", "rtx")
    if plain in GPUS:
        return GPUS[plain]
    size = _SIZE.fullmatch(word.strip())
    if size is None or not 0 < float(size[1]) <= 10_000:
        raise SftError(
            where=f"--gpu {word}",
            problem="neither a known card nor a size",
            fix=f"--gpu 24GB, or one of {', '.join(GPUS)}",
        )
    unit = 2**30 if (size[2] or "").upper() == "GIB" else GB
    return Gpu(word, int(float(size[1]) * unit))


def gpu_from_driver_name(device: str) -> Gpu | None:
    """Return the GPU with a driver's name (``NVIDIA H100 80GB HBM3``); None for unknown names."""
    plain = device.lower().replace(" ", "").replace("geforce", "").replace("-", "")
    matching = [gpu for name, gpu in GPUS.items() if name.split("-")[0] in plain]
    return max(matching, key=lambda gpu: len(gpu.name.split("-")[0]), default=None)
