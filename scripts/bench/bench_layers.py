"""Measure the CPU time of the layers in a LoRA step: PEFT's forward and the fused one, with and without autocast.

    OMP_NUM_THREADS=1 python scripts/bench/bench_layers.py [--rounds 5] [--profile fused]

A Llama of 58 M parameters with random weights, LoRA of rank 16 on every linear layer, rows of 8 documents of about 150
tokens, packed. The timed part is a forward and backward pass of the decoder with a fixed gradient at 40% of the
positions, without head and optimizer. The variants alternate within each round. The output is tokens per second of CPU
time over all threads (median over rounds), which other processes affect little.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sft_cli.batching.packed_row import PackedRow, pack_row
from sft_cli.model.attention.packing import document_arguments, use_packed_attention
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.onednn import enable_onednn_float32
from sft_cli.model.speed.rms_norm import replace_rms_norms

LENGTHS = ((153, 88, 351, 123, 97, 201, 64, 140), (99, 180, 75, 240, 160, 131, 118, 150))


def main() -> None:
    """Measure every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--profile", help="print torch's profile of this variant instead")
    options = parser.parse_args()
    variants = {
        "peft, float32": lambda: make_variant(torch.float32),
        "fused, float32": lambda: make_variant(torch.float32, fused=True),
        "fused, float32, norms": lambda: make_variant(torch.float32, fused=True, norms=True),
        "fused, float32, norms, oneDNN": lambda: make_variant(torch.float32, fused=True, norms=True, fast=True),
        "peft, autocast": lambda: make_variant(torch.bfloat16, autocast=True),
        "peft, bfloat16": lambda: make_variant(torch.bfloat16),
        "fused, autocast": lambda: make_variant(torch.bfloat16, autocast=True, fused=True),
        "fused, bfloat16": lambda: make_variant(torch.bfloat16, fused=True),
        "fused, bfloat16, norms": lambda: make_variant(torch.bfloat16, fused=True, norms=True),
        "fused, autocast, norms": lambda: make_variant(torch.bfloat16, autocast=True, fused=True, norms=True),
    }
    if options.profile:
        return profile(variants[options.profile]())
    steps = {name: make() for name, make in variants.items() if not options.only or name in options.only}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            step(0), step(1)
            started = time.process_time()
            step(0), step(1)
            times[name].append(time.process_time() - started)
    tokens = sum(map(sum, LENGTHS))
    for name, seconds in times.items():
        print(f"{name:32} {tokens / statistics.median(seconds):8,.0f} tokens/s   best {tokens / min(seconds):8,.0f}")


def make_variant(
    dtype: torch.dtype, *, autocast: bool = False, fused: bool = False, norms: bool = False, fast: bool = False
) -> Callable[[int], None]:
    """Return a function that runs a forward and backward pass over the row of a given number."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
        vocab_size=32000, max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(dtype)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()  # adapters in float32
    use_packed_attention(model)
    if norms:
        replace_rms_norms(model)
    if fused:
        fuse_lora(model)
    rows = [row(lengths) for lengths in LENGTHS]

    def step(number: int) -> None:
        if fast:
            enable_onednn_float32()
        precision = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        ids, positions, at, gradient, bounds = rows[number]
        with precision:
            hidden = decoder(model)(input_ids=ids, position_ids=positions, **document_arguments(bounds))
        hidden.last_hidden_state[0, at].backward(gradient.to(hidden.last_hidden_state.dtype))
        for parameter in model.parameters():
            parameter.grad = None
        torch.set_float32_matmul_precision("highest")

    return step


def decoder(model: nn.Module) -> nn.Module:
    """Return the model without its head."""
    return model.get_base_model().model  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def row(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, PackedRow]:
    """Return ids, positions, trained positions, gradient and bounds of documents of these lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(3, 32000, (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    at = torch.nonzero(positions[0] >= 0.6 * torch.cat([torch.full((n,), n) for n in lengths]))[:, 0]
    return ids, positions, at, torch.randn(len(at), 512, generator=generator), pack_row(lengths, read_positions=at)


def profile(step: Callable[[int], None]) -> None:
    """Print the profile of one variant."""
    step(0), step(1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        step(0), step(1)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
