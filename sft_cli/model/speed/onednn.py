"""Float32 matrix products by oneDNN on CPUs on which it does not reduce their precision."""

import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
TOLERANCE = 1e-5
"""Largest relative difference to float64; it is below 1e-6 for float32 products and above 1e-3 for bfloat16."""


def enable_onednn_float32(cpuinfo: Path = CPUINFO) -> bool:
    """Compute float32 products of this process by oneDNN if that does not reduce precision.

    torch's precision "medium" permits oneDNN to multiply in bfloat16. Its kernels do so on CPUs with AMX units (and on
    ARM); on x86 CPUs with AVX-512 but without AMX they compute in float32, up to twice as fast as the default kernels.
    "medium" affects CUDA devices as well: call this only in CPU runs.

    Returns:
        Whether oneDNN is used.
    """
    if not keeps_float32(cpuinfo):
        return False
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if matmul_error() <= TOLERANCE:
        return True
    torch.set_float32_matmul_precision(previous)
    return False


def keeps_float32(cpuinfo: Path) -> bool:
    """Return whether the CPU is x86 with AVX-512 and without AMX, according to Linux."""
    if not cpuinfo.is_file():
        return False
    units = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    names = units[1].split() if units else []
    return "avx512f" in names and not any(name.startswith("amx") for name in names)


def matmul_error() -> float:
    """Return the largest relative error of a matrix product of typical size, in the current precision."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double().t()
    return ((left @ right.t() - exact).abs().max() / exact.abs().max()).item()
