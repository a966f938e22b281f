"""Compare the peak memory of training steps with the estimate, for random models, each in its own process.

    OMP_NUM_THREADS=2 python scripts/bench/bench_memory.py

Two measures. *Tensors*: the most bytes that torch's allocator had allocated at once, from torch's profiler;
``torch.cuda.max_memory_allocated`` counts the same on a GPU. *Resident*: the peak of the process minus its memory
before the model was made; it includes the memory that glibc cannot return and the caches of oneDNN. Each case trains
three steps of two micro-batches, packed and computed as in training. It takes about ten minutes on an idle machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

from step_model import Case, everything, make_base, make_row, make_trained, settings_of

WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip
QWEN = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
EXPERTS = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": 32000, "num_experts": 8, "num_experts_per_tok": 2,
           "moe_intermediate_size": 256, "head_dim": 64}  # fmt: skip
CASES = {
    "58M bf16": Case(),
    "58M bf16, half recomputed": Case(mode="layers"),
    "58M bf16, full": Case(mode="full"),
    "58M bf16, selective, unfused": Case(mode="selective", fused=False),
    "58M float32": Case(dtype="float32"),
    "58M float32, half recomputed": Case(dtype="float32", mode="layers"),
    "58M float32, full": Case(dtype="float32", mode="full"),
    "58M bf16, 4,096 tokens, half": Case(mode="layers", tokens=4096),
    "58M bf16, one row of 2,048": Case(document=2048),
    "58M bf16, PEFT's own forward": Case(fused=False),
    "58M nf4, full": Case(mode="full", quant="nf4"),
    "58M all weights, float32": Case(adapter="none", dtype="float32"),
    "58M all weights, full, 8-bit AdamW": Case(adapter="none", dtype="float32", mode="full", optimizer="adamw_8bit"),
    "1024 wide bf16": Case(shape=WIDE),
    "1024 wide float32, full": Case(shape=WIDE, dtype="float32", mode="full"),
    "152k words bf16": Case("qwen2", QWEN),
    "152k words float32, full": Case("qwen2", QWEN, dtype="float32", mode="full"),
    "152k words, all weights": Case("qwen2", QWEN, adapter="none", dtype="float32"),
    "8 experts bf16": Case("qwen3_moe", EXPERTS),
    "8 experts float32, full": Case("qwen3_moe", EXPERTS, dtype="float32", mode="full"),
}


def peak_of_step(step: Callable[[], None]) -> int:
    """Return the most bytes that a step holds at once beyond those before it, as torch's profiler reports them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def child(case: Case) -> dict[str, float]:
    """Train three steps; return peaks and estimates in bytes."""
    import torch

    from sft_cli.config.schema.config import ModelConfig
    from sft_cli.config.schema.speed import Checkpointing
    from sft_cli.config.schema.trainer import LossConfig
    from sft_cli.model.memory.checkpointing import CheckpointingPlan
    from sft_cli.model.memory.measure import estimate_memory
    from sft_cli.train.optimizers.optimizers import make_optimizer, optimizer_state_bytes

    settings = settings_of(case)
    expected = estimate_memory(
        settings.config, ModelConfig(), settings.quant, settings.adapter, settings.speed, LossConfig(),
        tokens=case.tokens, setup=settings.machine, optimizer_bytes=optimizer_state_bytes(settings.trainer),
        document=case.document,
    )  # fmt: skip
    torch.manual_seed(0)
    base, before = make_base(case, settings)
    mode, depth = Checkpointing(case.mode), settings.config.num_hidden_layers
    layers = {"none": 0, "layers": depth // 2}.get(case.mode, depth)
    model, loss_model, _ = make_trained(case, settings, base, CheckpointingPlan(mode, layers, ""))
    row = make_row(case, settings.config.vocab_size)
    optimizer = make_optimizer(loss_model, settings.trainer, settings.adapter)

    def step() -> None:
        """Train one step of two micro-batches."""
        for _ in range(2):
            with settings.machine.precision():
                loss_model(*row)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    started = time.perf_counter()
    step()
    step()
    seconds = (time.perf_counter() - started) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    most = peak_of_step(step)
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in everything(model)}
    states = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
    static = sum(held.values()) + sum(one.numel() * one.element_size() for one in states)
    space, total = expected.overhead(mode, layers), expected.total(mode, layers)
    return {
        "tensors": static + most, "step": most, "static": static, "estimate": total - space,
        "resident": peak - before, "estimate_resident": total, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Print the table, in MB."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(CASES[asked.child])))
        return
    print("| MB | tensors | estimate | off | of the step alone | resident | estimate | off | s a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in CASES:
        if asked.only not in name:
            continue
        words = [sys.executable, __file__, "--child", name]
        done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True)
        if done.returncode:
            print(f"| {name} | {done.stderr.splitlines()[-1]} |")
            continue
        found = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
        step = found["estimate"] - found["static"]
        print(
            f"| {name} | {found['tensors'] / 1e6:,.0f} | {found['estimate'] / 1e6:,.0f}"
            f" | {found['estimate'] / found['tensors'] - 1:+.0%} | {step / found['step'] - 1:+.0%}"
            f" | {found['resident'] / 1e6:,.0f} | {found['estimate_resident'] / 1e6:,.0f}"
            f" | {found['estimate_resident'] / found['resident'] - 1:+.0%} | {found['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
