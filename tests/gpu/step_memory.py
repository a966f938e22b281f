"""Compare the peak memory of whole training steps on a card with the estimate.

    python -m tests.gpu.step_memory [NAME ...]                       # on a card
    python -m tests.cuda_simulator tests.gpu.step_memory [NAME ...]  # without one

A step is two micro-batches, packed and computed as in training, and the optimizer. The peak is that of the second step,
with weights and optimizer state, as ``torch.cuda.max_memory_allocated`` counts it.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from sft_cli.batching.packed_row import PackedRow, pack_row
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import LossConfig, TrainerConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.device import ComputeSetup
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.measure import measure_model
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.last_block import skip_unused_positions
from sft_cli.model.speed.rms_norm import replace_rms_norms
from sft_cli.train.optimizers.optimizers import make_optimizer, optimizer_state_bytes

CUDA = torch.device("cuda")
SHAPE = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
DOCUMENTS = ([128] * 4, None)
SHARED = ([256] + [16] * 16, [-1] + [0] * 16)
"""Lengths and parents of the segments of a row: 512 tokens each."""
LEAST, MOST = 0.9, 1.1
"""Least and largest ratio of the peak to the estimate."""


@dataclass(frozen=True)
class Case:
    """A model, a row and settings.

    Attributes:
        segments: Lengths and parents of the row's segments.
        trained: Share of the tokens that carry loss.
        chunk: ``speed.logits_chunk``.
    """

    family: str = "llama"
    shape: dict[str, Any] = field(default_factory=dict)
    segments: tuple[list[int], list[int] | None] = DOCUMENTS
    mode: Checkpointing = Checkpointing.none
    fused: bool = True
    adapter: AdapterKind = AdapterKind.lora
    trained: float = 1.0
    chunk: int = 128


CASES = {
    "plain": Case(fused=False),
    "fused": Case(),
    "q/k norms": Case("qwen3"),
    "shared prefix": Case(segments=SHARED),
    "full recompute": Case(mode=Checkpointing.full),
    "full recompute, shared prefix": Case(segments=SHARED, mode=Checkpointing.full),
    "half of the layers": Case(mode=Checkpointing.layers),
    "selective": Case(mode=Checkpointing.selective),
    "offload": Case(mode=Checkpointing.offload),
    "full recompute, plain": Case(mode=Checkpointing.full, fused=False),
    "q/k norms, full recompute": Case("qwen3", mode=Checkpointing.full),
    "q/k norms, full recompute, shared prefix": Case("qwen3", segments=SHARED, mode=Checkpointing.full),
    "one document": Case(segments=([512], None)),
    "soft-caps": Case("gemma2"),
    "soft-caps, full recompute": Case("gemma2", mode=Checkpointing.full),
    "32k words": Case(shape={"vocab_size": 32000}),
    "32k words, full recompute": Case(shape={"vocab_size": 32000}, mode=Checkpointing.full),
    "all weights": Case(adapter=AdapterKind.none),
    "all weights, full recompute": Case(adapter=AdapterKind.none, mode=Checkpointing.full),
}


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step: the peak, the estimate, and the part of each beyond weights and optimizer state."""

    peak: int
    estimate: int
    fixed: int

    @property
    def ratio(self) -> float:
        """The peak over the estimate."""
        return self.peak / self.estimate

    @property
    def step_ratio(self) -> float:
        """The same without weights and optimizer state."""
        return (self.peak - self.fixed) / (self.estimate - self.fixed)


def measure(case: Case) -> StepMemory:
    """Train two steps on the card."""
    config = AutoConfig.for_model(case.family, **SHAPE | case.shape)
    row = pack_row(*case.segments)
    layers = {Checkpointing.none: 0, Checkpointing.layers: SHAPE["num_hidden_layers"] // 2}
    plan = CheckpointingPlan(case.mode, layers.get(case.mode, SHAPE["num_hidden_layers"]), "")
    trainer, speed = TrainerConfig(lr=1e-4), SpeedConfig(fused=case.fused, logits_chunk=case.chunk)
    needed = estimate(case, config, speed, trainer, row)
    gc.collect()
    before = torch.cuda.memory_allocated()
    step = training_step(case, config, speed, trainer, row, plan)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return StepMemory(peak, needed.total(plan.mode, plan.layers), needed.weights + needed.training)


def estimate(
    case: Case, config: PretrainedConfig, speed: SpeedConfig, trainer: TrainerConfig, row: PackedRow
) -> MemoryEstimate:
    """Return the estimate, as before a run."""
    tokens = sum(row.lengths)
    counted = measure_model(
        config, ModelConfig(), adapter(case), speed, LossConfig(), setup=ComputeSetup(CUDA, torch.bfloat16),
        document=max(row.key_lengths), keys_per_token=sum(row.key_lengths) / tokens,
    )  # fmt: skip
    return counted.memory(
        QuantConfig(), speed, LossConfig(), tokens=tokens, optimizer_bytes=optimizer_state_bytes(trainer)
    )


def adapter(case: Case) -> AdapterConfig:
    """Return the adapter of a case."""
    return AdapterConfig(kind=case.adapter, train_stop_token=TrainStopToken.never)


def training_step(
    case: Case,
    config: PretrainedConfig,
    speed: SpeedConfig,
    trainer: TrainerConfig,
    row: PackedRow,
    plan: CheckpointingPlan,
) -> Callable[[], None]:
    """Return a function that trains one step of a new model."""
    machine = ComputeSetup(CUDA, torch.bfloat16)
    full = case.adapter is AdapterKind.none
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if full else torch.bfloat16).to(CUDA)
    model: nn.Module = add_adapter(base, adapter(case), [], seed=0).model.train()
    use_packed_attention(model)
    with machine.precision():
        if case.fused:
            replace_rms_norms(model)
            if not full:
                fuse_lora(model)
        loss_model = LossModel(model, packed=True, chunk=speed.logits_chunk)
        if case.fused:
            skip_unused_positions(model)
    apply_checkpointing(model, plan)
    optimizer = make_optimizer(loss_model, trainer, adapter(case))
    tokens = sum(row.lengths)
    at = torch.arange(round((1 - case.trained) * tokens), tokens)
    read = pack_row(*case.segments, read_positions=at)

    def step() -> None:
        for _ in range(2):
            ids = torch.randint(SHAPE["vocab_size"], (1, tokens)).to(CUDA)
            targets, weights = ids[0, at - 1], torch.full((len(at),), 1 / len(at), device=CUDA)
            with machine.precision():
                loss_model(ids, read.positions.to(CUDA), read.to(CUDA), targets, at.to(CUDA), weights)[
                    "loss"
                ].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print the table of the named cases, or of all."""
    print("| case | peak, MB | estimate, MB | peak / estimate | without weights and optimizer |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or CASES:
        found = measure(CASES[name])
        sizes = f"{found.peak / 1e6:.1f} | {found.estimate / 1e6:.1f}"
        print(f"| {name} | {sizes} | {found.ratio:.2f} | {found.step_ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
