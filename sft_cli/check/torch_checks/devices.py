"""Checks of this machine's devices: CUDA, four-bit weights, NCCL and communication between processes."""

import os
import shutil
import socket
import subprocess
import sys

import torch
from torch.cuda import nccl

from sft_cli.check.results import CheckResult, fail, ok, warn
from sft_cli.console import gib
from sft_cli.model.device import has_native_bfloat16

SECONDS = 60
"""Time limit for two processes to connect, including imports on a busy machine."""
LARGEST = 0.15
"""Largest relative error of NF4 that passes. It is 0.09 on normal numbers; a broken kernel gives 1 or more."""


ADVICE = "nothing for models of up to some 100 million parameters; train larger ones on a machine with an NVIDIA GPU"


def cuda_check() -> CheckResult:
    """Return the check of GPUs, driver and bfloat16; training on a CPU is a warning."""
    driver = _driver()
    if not torch.cuda.is_available():
        built = torch.version.cuda
        if driver and built is None:
            return fail(
                "cuda",
                f"the driver ({driver}) sees a card, but torch {torch.__version__} was built without CUDA",
                "pip install --force-reinstall torch from a CUDA index, see https://pytorch.org/get-started/locally",
            )
        if driver:
            return fail(
                "cuda",
                f"the driver is {driver}, torch was built for CUDA {built} and cannot use it",
                "update the driver, or install a torch that was built for an older CUDA",
            )
        return warn("cuda", "no GPU and no NVIDIA driver: training runs on the CPU", ADVICE)
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    named = ", ".join(f"{card.name} ({gib(card.total_memory)})" for card in cards)
    text = f"{named}; CUDA {torch.version.cuda}, driver {driver or 'unknown'}"
    if has_native_bfloat16():
        return ok("cuda", f"{text}; bfloat16")
    return warn("cuda", f"{text}; no bfloat16", "nothing: trainer.dtype=auto takes float16 with scaled losses here")


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 and result.stdout.strip() else None


def four_bit_check() -> CheckResult:
    """Return the check that NF4 quantizes and dequantizes on the training device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fix = "pip install --force-reinstall 'bitsandbytes>=0.50,<0.51'; until then quant=none"
    import sft_cli.model  # noqa: F401 (silences the log of bitsandbytes at import)

    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
        stored, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
        error = ((dequantize_4bit(stored, state) - weights).norm() / weights.norm()).item()
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as failure:
        return fail("4 bits", f"bitsandbytes does not work on the {device.type}: {str(failure).splitlines()[0]}", fix)
    if not error < LARGEST:
        return fail("4 bits", f"NF4 round trip on the {device.type} has a relative error of {error:.0%}", fix)
    return ok("4 bits", f"NF4 round trip on the {device.type}: relative error {error:.3f}, as expected")


def nccl_check() -> CheckResult:
    """Return the check of NCCL, which exchanges gradients between GPUs."""
    if not torch.cuda.is_available():
        return ok("nccl", "not needed without GPUs: processes on CPUs use gloo")
    if not torch.distributed.is_nccl_available():
        return fail(
            "nccl", "torch was built without NCCL", "install torch from PyTorch's own wheels; until then use one GPU"
        )
    return ok("nccl", ".".join(str(part) for part in nccl.version()))


def rendezvous_check() -> CheckResult:
    """Return the check that two processes on this machine can connect and sum a number each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "sft_cli.check.torch_checks.rendezvous"]
    started = [
        subprocess.Popen(
            words, env={**os.environ, **rendezvous, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    outputs, errors = list[str](), list[str]()
    for process in started:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            errors.append(f"no connection after {SECONDS} s")
            continue
        outputs.append(out.decode().strip())
        if process.returncode:
            errors.append((err.decode().strip().splitlines() or ["no message"])[-1])
    if errors or outputs != ["3", "3"]:
        fix = "export GLOO_SOCKET_IFNAME=lo, or allow connections on the loopback interface"
        return fail("processes", f"two processes do not connect: {(errors or outputs)[0]}", fix)
    return ok("processes", "two processes connected over gloo on 127.0.0.1")
