"""What torch finds on this machine: CUDA, four-bit weights, NCCL, processes that meet."""

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
"""How long two processes may take to meet, imports on a busy machine included."""
LARGEST = 0.15
"""Relative error of NF4 on normal numbers is 0.09; a broken kernel gives 1 and more."""


ADVICE = "nothing for models of up to some 100 million parameters; train larger ones on a machine with an NVIDIA GPU"


def cuda_check() -> CheckResult:
    """Cards, driver and bfloat16; training on a CPU is fine for small models."""
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
    """The version of NVIDIA's driver; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS)
    return told.stdout.splitlines()[0].strip() if told.returncode == 0 and told.stdout.strip() else None


def four_bit_check() -> CheckResult:
    """NF4 there and back on the device that trains."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fix = "pip install --force-reinstall 'bitsandbytes>=0.50,<0.51'; until then quant=none"
    import sft_cli.model  # noqa: F401 (quiets what bitsandbytes logs as it is imported)

    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
        stored, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
        error = ((dequantize_4bit(stored, state) - weights).norm() / weights.norm()).item()
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as wrong:
        return fail("4 bits", f"bitsandbytes does not work on the {device.type}: {str(wrong).splitlines()[0]}", fix)
    if not error < LARGEST:
        return fail("4 bits", f"NF4 there and back on the {device.type} is off by {error:.0%}", fix)
    return ok("4 bits", f"NF4 there and back on the {device.type}: relative error {error:.3f}, as it should be")


def nccl_check() -> CheckResult:
    """What processes on several cards exchange gradients with."""
    if not torch.cuda.is_available():
        return ok("nccl", "not needed without cards: processes on CPUs use gloo")
    if not torch.distributed.is_nccl_available():
        return fail(
            "nccl", "torch was built without NCCL", "install torch from PyTorch's own wheels; until then one GPU"
        )
    return ok("nccl", ".".join(str(part) for part in nccl.version()))


def rendezvous_check() -> CheckResult:
    """Two processes that meet on this machine and add up a number each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "sft_cli.check.torch_checks.rendezvous"]
    started = [
        subprocess.Popen(
            words, env={**os.environ, **meeting, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    told, wrong = list[str](), list[str]()
    for process in started:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            wrong.append(f"not met after {SECONDS} s")
            continue
        told.append(out.decode().strip())
        if process.returncode:
            wrong.append((err.decode().strip().splitlines() or ["no message"])[-1])
    if wrong or told != ["3", "3"]:
        fix = "look at firewalls on the loopback interface, or export GLOO_SOCKET_IFNAME=lo"
        return fail("processes", f"two processes do not meet: {(wrong or told)[0]}", fix)
    return ok("processes", "two processes met over gloo on 127.0.0.1")
