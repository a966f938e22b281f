"""Float32 matrix products through oneDNN on CPUs where they stay float32."""

import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
TOLERANCE = 1e-5
"""Largest relative difference to float64: float32 products are below 1e-6, bfloat16 ones above 1e-3."""


def enable_onednn_float32(cpuinfo: Path = CPUINFO) -> bool:
    """Let float32 products of this process run through oneDNN if that does not reduce precision.

    torch's precision "medium" permits oneDNN to multiply in bfloat16. Its kernels do so on CPUs with AMX units (and on
    ARM); on x86 CPUs with AVX-512 alone they compute in float32, up to twice as fast as the default ones. "medium"
    affects CUDA devices as well: call this in CPU runs only.

    Returns:
        Whether it is on.
    """
    if not keeps_float32(cpuinfo):
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if matmul_error() <= TOLERANCE:
        return True
    torch.set_float32_matmul_precision(before)
    return False


def keeps_float32(cpuinfo: Path) -> bool:
    """Return whether the CPU is an x86 one with AVX-512 and without AMX, as Linux lists its features."""
    if not cpuinfo.is_file():
        return False
    units = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    names = units[1].split() if units else []
    return "avx512f" in names and not any(name.startswith("amx") for name in names)


def matmul_error() -> float:
    """Return the largest relative error of a product of the size of a layer's, in the current precision."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double().t()
    return ((left @ right.t() - exact).abs().max() / exact.abs().max()).item()
