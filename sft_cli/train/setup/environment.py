"""The environment of a run: versions, machine, threads. Environment variables may contain secrets and are left out."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch
from transformers import PretrainedConfig

from sft_cli import __version__
from sft_cli.config.schema.config import Config
from sft_cli.console import gib, keep_in, say
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.model.device import ComputeSetup
from sft_cli.model.threads import choose_threads, set_num_threads
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints.export import copy_data_files
from sft_cli.utils.atomic import write_atomic

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
    """Return versions, machine, device and compute type as plain JSON values."""
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


def prepare_machine(config: Config, directory: RunDir, architecture: PretrainedConfig, machine: ComputeSetup) -> None:
    """Set the number of threads on a CPU, and print the device, the dtype and the reasons for them.

    A resumed run uses the number of threads that it began with; for a new run, the number depends on the model.
    """
    if config.trainer.deterministic:
        use_deterministic_operations()
    kind = f"{str(machine.dtype).removeprefix('torch.')} ({machine.reason or 'as configured'})"
    if machine.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(machine.device)
        say(f"machine   {gpu.name} ({gib(gpu.total_memory)}, CUDA {torch.version.cuda}), {kind}")
        return
    file = directory.environment
    recorded = directory.read_json(file).get("threads") if file.is_file() else None
    threads = choose_threads(
        config.speed.threads,
        recorded,
        architecture,
        dtype=machine.dtype,
    )
    set_num_threads(threads)
    say(f"machine   cpu, {kind}, {threads.describe()}")


def use_deterministic_operations() -> None:
    """Use deterministic operations for the rest of the process; an operation that has no such version raises an error.

    Call it before the first matrix product, when cuBLAS reads its environment variable.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Filling new memory would only cost time. Pyright: the module replaces its own class on import.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True)


@contextmanager
def translate_missing_determinism() -> Iterator[None]:
    """Turn torch's error about a nondeterministic operation into an SftError that names the setting.

    Raises:
        SftError: ``trainer.deterministic`` is on, and the run needs such an operation.
    """
    try:
        yield
    except RuntimeError as error:
        operation, is_missing, _ = str(error).partition(" does not have a deterministic implementation")
        if not is_missing:
            raise
        problem = f"torch has no deterministic version of {operation.split()[-1]} for this GPU"
        raise SftError(
            where="trainer.deterministic=true", problem=problem, fix="trainer.deterministic=false"
        ) from error


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe_run(directory: RunDir, prepared: PreparedData, machine: ComputeSetup, memory: int | None) -> None:
    """Write the files that exist before training: versions, data, and the tokenizer for serving.

    Args:
        directory: The run directory.
        prepared: The data of the run.
        machine: The device and the type of computation.
        memory: The estimated peak bytes; None if they are not known.
    """
    keep_in(directory.console)
    say(f"run       {directory.path}")
    values = describe_environment(machine.device, machine.dtype) | {"memory_estimate_bytes": memory}
    write_atomic(directory.environment, json.dumps(values, indent=2) + "\n")
    data = {"prepared_dir": str(prepared.directory.resolve())}
    data |= {key: prepared.manifest[key] for key in ("fingerprint", "content")}
    copy_data_files(directory, prepared)
    write_atomic(directory.data, json.dumps(data, indent=2) + "\n")
