"""Peak memory by what is recomputed and by compute type, beside the estimate: a random 58M Llama with LoRA.

    OMP_NUM_THREADS=2 python scripts/bench/bench_memory.py

Each setting trains two steps in a process of its own. Growth is the peak above what was resident before the first
step; the estimate beside it is that of training state, activations with what lies unused between them, and logits.
Under two minutes on an idle machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

MODES = ("none", "layers", "full")
DTYPES = ("float32", "bfloat16")
SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
TOKENS, TRAINED, DOCUMENTS = 2048, 1024, 8


def child(mode: str, dtype: str) -> dict[str, float]:
    """Train two steps; peak, growth and estimate in bytes, seconds of the second step."""
    import psutil
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from sft_cli.config.adapter_schema import AdapterConfig, QuantConfig, StopRow
    from sft_cli.config.schema import ModelConfig
    from sft_cli.config.trainer_schema import Checkpointing, LossConfig, TrainerConfig
    from sft_cli.model.adapter.add import add_adapter
    from sft_cli.model.attention.documents import documents
    from sft_cli.model.attention.packing import use_packed
    from sft_cli.model.head.loss_model import LossModel
    from sft_cli.model.machine import DTYPES as TYPES
    from sft_cli.model.machine import Machine
    from sft_cli.model.memory.checkpointing import Recompute, apply
    from sft_cli.model.memory.estimate import estimate
    from sft_cli.model.speed.fused import fuse

    config, adapter = LlamaConfig(**SHAPE), AdapterConfig(train_stop_row=StopRow.never)
    machine = Machine(torch.device("cpu"), TYPES[dtype])  # pyright: ignore[reportArgumentType]
    expected = estimate(
        config, ModelConfig(), QuantConfig(), adapter, TrainerConfig(), LossConfig(), tokens=TOKENS, machine=machine,
        optimizer_bytes=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = add_adapter(AutoModelForCausalLM.from_config(config, dtype=machine.dtype), adapter, [], seed=0).model
    use_packed(model)
    with machine.precision():
        fuse(model)
        loss_model = LossModel(model, packed=True, chunk=1024)
    kind = Checkpointing(mode)
    layers = {"none": 0, "layers": 4}.get(mode, 8)
    apply(model.train(), Recompute(kind, layers, ""))
    length = TOKENS // DOCUMENTS
    ids = torch.randint(32000, (1, TOKENS))
    positions = torch.arange(length).repeat(DOCUMENTS)[None]
    at = torch.arange(TRAINED) * 2
    row = (ids, positions, documents([length] * DOCUMENTS), ids[0, at + 1], at, torch.full((TRAINED,), 1 / TRAINED))
    optimizer = torch.optim.AdamW(value for value in model.parameters() if value.requires_grad)
    before, seconds = psutil.Process().memory_info().rss, 0.0
    for _ in range(2):
        started = time.perf_counter()
        with machine.precision():
            loss_model(*row)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    needed = expected.training + expected.resident(kind, layers) + expected.logits
    return {"peak": peak, "growth": peak - before, "estimate": needed, "seconds": seconds}


def main() -> None:
    """Print the table, ratios to recomputing nothing in float32."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=2)
    asked = parser.parse_args().child
    if asked:
        print(json.dumps(child(*asked)))
        return
    print(f"{'':20}{'peak MB':>9}{'ratio':>7}{'growth MB':>11}{'estimate MB':>13}{'growth/estimate':>17}{'step s':>8}")
    first = None
    for dtype in DTYPES:
        for mode in MODES:
            words = [sys.executable, __file__, "--child", mode, dtype]
            done = subprocess.run(words, env=dict(os.environ), stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            first = found["peak"] if first is None else first
            sizes = [found[name] / 1e6 for name in ("peak", "growth", "estimate")]
            print(
                f"{dtype + ' ' + mode:20}{sizes[0]:9.0f}{found['peak'] / first:7.2f}{sizes[1]:11.0f}{sizes[2]:13.0f}"
                f"{sizes[1] / sizes[2]:17.2f}{found['seconds']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
