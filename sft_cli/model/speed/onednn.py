"""Float32 matrix products on a CPU through oneDNN, where they stay float32."""

import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
TOLERANCE = 1e-5
"""Largest relative difference to float64: float32 products are below 1e-6, bfloat16 ones above 1e-3."""


def exact_fast_matmul(cpuinfo: Path = CPUINFO) -> bool:
    """Let float32 products of this process run through oneDNN if that changes no precision; whether it is on.

    torch's precision "medium" permits oneDNN to multiply in bfloat16. Its kernels do so on CPUs with AMX units (and on
    ARM); on x86 CPUs with AVX-512 alone they compute in float32, at up to twice the speed of the default ones. "medium"
    concerns CUDA devices as well: call this in runs on the CPU only.
    """
    if not stays_float32(cpuinfo):
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if error() <= TOLERANCE:
        return True
    torch.set_float32_matmul_precision(before)
    return False


def stays_float32(cpuinfo: Path) -> bool:
    """Whether the CPU is an x86 one with AVX-512 and without AMX, as Linux lists its units."""
    if not cpuinfo.is_file():
        return False
    units = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    names = units[1].split() if units else []
    return "avx512f" in names and not any(name.startswith("amx") for name in names)


def error() -> float:
    """The largest relative error of a product of the size of a layer's, in the precision that is set."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double().t()
    return ((left @ right.t() - exact).abs().max() / exact.abs().max()).item()
