"""The environment of a run: versions and machine. No environment variables, which may hold secrets."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from sft_cli import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "hydra-core",
    "omegaconf",
    "numpy",
)


def describe_environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Versions, machine, device and compute type as plain JSON values."""
    return {
        "sft_cli": __version__,
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
