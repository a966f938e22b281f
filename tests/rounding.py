"""Largest difference between two orders of the same sums on this processor."""

import torch

ROUNDING = 1.0 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 10.0
"""Factor on bounds that were measured with AVX-512 kernels.

AVX2 kernels cut sums elsewhere, and round bfloat16 more often: losses over numbers of processes differ by up to 5.4e-5
instead of 1e-5, a bfloat16 merge by a KL of 2.2e-3 instead of 2e-3.
"""
