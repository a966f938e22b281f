"""Versions, the ceilings of this card, and what TF32 does to float32."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from acceptance.findings import Check

PACKAGES = (
    "torch", "triton", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate", "datasets", "liger-kernel",
    "trl",
)  # fmt: skip


def machine(check: Check) -> None:
    """Record versions and speeds, and run ``sft doctor``."""
    card = torch.cuda.get_device_properties(0)
    check.found.number(
        python=platform.python_version(), card=card.name, capability=f"{card.major}.{card.minor}",
        memory=card.total_memory, cuda=torch.version.cuda, **{name: installed(name) for name in PACKAGES},
    )  # fmt: skip
    check.start([*check.python, "sft_cli", "doctor"], "doctor.txt").wait()
    lines = check.text("doctor.txt").splitlines()
    check.found.number(doctor=[line for line in lines if line.startswith(("fail", "warn"))])
    check.found.expect(any(line.startswith("ok    4 bits") for line in lines), "sft doctor did not test four bits")
    for line in lines:
        if check.dry and line.startswith("fail  nccl"):
            check.found.skip("NCCL: the simulator has none")
        else:
            check.found.expect(not line.startswith("fail"), line)
    size = check.sizes["product"]
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(check.sizes["copied"], dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    product, copy = seconds(lambda: left @ right), seconds(lambda: target.copy_(source))
    if check.dry:
        check.found.skip("speeds: the card is simulated")
        return
    check.found.number(tflops=2 * size**3 / product / 1e12, copied_tb_per_s=2 * source.nbytes / copy / 1e12)


def installed(name: str) -> str | None:
    """Return the version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def seconds(work: Callable[[], object], warm: int = 3, timed: int = 10) -> float:
    """Return the mean seconds of a call on the card."""
    for _ in range(warm):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(timed):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / timed


def tf32(check: Check) -> None:
    """Run the probe of packing in float32, with TF32 off as float32 runs have it, and on."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from sft_cli.config.schema.trainer import Device, Dtype, TrainerConfig
    from sft_cli.model.attention.probe import probe_packing
    from sft_cli.model.device import choose_compute_setup

    choose_compute_setup(TrainerConfig(device=Device.cuda, dtype=Dtype.float32))
    exact = torch.backends.cuda.matmul.allow_tf32
    check.found.expect(exact is False, "a float32 run leaves TF32 on")
    width = check.sizes["width"]
    for layers in check.sizes["layers"]:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=2000, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 64, num_key_value_heads=width // 128, initializer_range=0.05,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to("cuda")
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            result = probe_packing(model)
            check.found.number(**{f"difference_{layers}_layers_{'on' if allowed else 'off'}": result.difference})
            check.found.expect(allowed or result.packed_ok, f"{layers} layers in float32: {result.reason}")
    if check.dry:
        check.found.skip("rounding of TF32: the simulator computes in float32")
