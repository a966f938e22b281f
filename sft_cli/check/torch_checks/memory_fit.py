"""Memory of one GPU, item by item, against what it holds; and the first setting that makes the run fit."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from transformers import PretrainedConfig

from sft_cli.check.gpus import Gpu
from sft_cli.check.paths_and_ports import world_size
from sft_cli.check.results import CheckResult, fail, ok, warn
from sft_cli.config.schema.adapter import WHOLE, AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind, LauncherKind
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.schema.trainer import OptimizerName
from sft_cli.console import gib
from sft_cli.errors import SftError
from sft_cli.model.device import DTYPES, ComputeSetup
from sft_cli.model.memory.checkpointing import MEMORY_MARGIN, CheckpointingPlan, choose_checkpointing
from sft_cli.model.memory.estimate import MemoryEstimate, shard_estimate
from sft_cli.model.memory.measure import MeasuredModel
from sft_cli.model.prequantized import stored_quantization
from sft_cli.train.setup.preflight import count_step_memory, max_micro_batch_tokens, micro_batch_memory

CONTEXT = 2**30 * 6 // 10
"""Bytes of a card that CUDA, cuBLAS and NCCL take for themselves; not measured here."""
CHUNK = 256
"""Trained positions whose logits take little memory even at 150,000 words."""


@dataclass(frozen=True)
class MemoryTarget:
    """What the run is to fit into.

    Attributes:
        name: For the line.
        machine: Device and compute type.
        free: Bytes that a run may take of one GPU, or of main memory; None where it is not known.
        processes: How many of them there are.
        card: The card, where it is one of the table.
    """

    name: str
    machine: ComputeSetup
    free: int | None
    processes: int
    card: Gpu | None = None


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a process under some settings.

    Attributes:
        memory: The estimate, sharded where the run is.
        recompute: What the backward pass recomputes.
        tokens: Of a micro-batch.
    """

    memory: MemoryEstimate
    recompute: CheckpointingPlan
    tokens: int

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.memory.total(self.recompute.mode, self.recompute.layers)


@dataclass(frozen=True)
class MemoryPlanner:
    """Counts the memory of a run under this and other settings.

    Attributes:
        config: The run's.
        architecture: The model's own configuration.
        target: What it is to fit into.
        longest: Tokens of the longest example.
        usual: Tokens of the example that a token is in, on average.
        counted: What was counted of the model so far, by what it is counted anew for.
    """

    config: Config
    architecture: PretrainedConfig
    target: MemoryTarget
    longest: int
    usual: int
    counted: dict[str, MeasuredModel] = field(default_factory=dict, repr=False)

    def need(self, config: Config, tokens: int | None = None) -> MemoryNeed:
        """The memory of a process under a config that differs in settings alone.

        Args:
            config: The run's, or a variant.
            tokens: Of a micro-batch; None: its most.
        """
        size = max_micro_batch_tokens(config, self.longest) if tokens is None else tokens
        key = repr((config.adapter, config.speed.fused, config.speed.packing))
        if key not in self.counted:
            self.counted[key] = count_step_memory(config, self.architecture, self.target.machine, self.usual)
        shared = shard_estimate(
            micro_batch_memory(config, self.counted[key], size), config.distributed, self.target.processes
        )
        free = self.target.free if self.target.free is not None else 2**63
        return MemoryNeed(shared, choose_checkpointing(config.speed, shared, free, self.target.machine.device), size)

    def fits(self, need: MemoryNeed) -> bool:
        """Whether it does, with nothing to spare."""
        return self.target.free is None or need.total <= self.target.free


def memory_checks(budget: MemoryPlanner) -> list[CheckResult]:
    """The items, and whether they fit; if not, what to type."""
    config, target = budget.config, budget.target
    need = budget.need(config)
    more = [*_table(budget, need), f"recompute: {need.recompute.sentence().removeprefix('recompute ')}"]
    about = f"about {gib(need.total)} of memory per {'GPU' if target.machine.device.type == 'cuda' else 'process'}"
    if target.free is None:
        return [warn("memory", f"{about}; no card is named and none is here", "--gpu 24GB, or --gpu h100", more)]
    text = f"{about}, {gib(target.free)} free on {target.name}"
    if not budget.fits(need):
        return [fail("memory", f"it does not fit: {text}", _advice(budget, need), more)]
    if need.total > target.free * (1 - MEMORY_MARGIN):
        return [warn("memory", f"{text}: less than {MEMORY_MARGIN:.0%} to spare", _advice(budget, need), more)]
    return [ok("memory", text, more=more)]


def _table(budget: MemoryPlanner, need: MemoryNeed) -> list[str]:
    """One row for each item."""
    memory, config = need.memory, budget.config
    mode, layers = need.recompute.mode, need.recompute.layers
    alone = budget.need(config, budget.longest)
    kind = "weights" if config.adapter.kind in WHOLE else "adapter"
    rows = [
        ("frozen weights", memory.weights),
        (kind, memory.parameters),
        ("gradients", memory.gradients),
        (f"optimizer ({config.trainer.optimizer.value})", memory.optimizer_state),
        ("gathered layers (fsdp)", memory.gathered),
        (f"activations at {need.tokens:,} tokens (a micro-batch)", memory.activations(mode, layers)),
        ("logits, or gradients passing a layer", memory.transient(mode, layers)),
        ("process overhead", memory.overhead(mode, layers)),
    ]
    shown = [f"{name:<46} {gib(size):>10}" for name, size in rows if size]
    own = alone.memory.activations(mode, layers)
    return [
        *shown,
        f"for comparison: the longest row, {budget.longest:,} tokens, has {gib(own)} of activations; logits alone take"
        f" {gib(memory.logits)}",
    ]


def _advice(budget: MemoryPlanner, need: MemoryNeed) -> str:
    """The first setting that makes it fit, with its figures; else what size of card would do."""
    room = int((budget.target.free or 0) * (1 - MEMORY_MARGIN))
    for words, config in cheaper_settings(budget):
        other = budget.need(config)
        if other.total <= room:
            return f"{words} ({gib(other.total)}; {other.recompute.sentence()})"
    least = min((budget.need(config).total for _, config in cheaper_settings(budget)), default=need.total)
    return (
        f"no single setting makes it fit, the least is {gib(least)}: a larger card, more GPUs with distributed=fsdp, or"
        " a smaller model or trainer.max_length"
    )


def cheaper_settings(budget: MemoryPlanner) -> Iterator[tuple[str, Config]]:
    """Settings that need less memory, what costs least first: words to type, and the config they give."""
    config = budget.config
    trainer, speed, whole = config.trainer, config.speed, config.adapter.kind in WHOLE
    cuda = budget.target.machine.device.type == "cuda"
    if speed.gradient_checkpointing not in (Checkpointing.auto, Checkpointing.full, Checkpointing.offload):
        free = replace(speed, gradient_checkpointing=Checkpointing.auto, checkpointed_layers=None)
        yield "speed.gradient_checkpointing=auto", replace(config, speed=free)
    small = list(_smaller_micro_batches(config, budget.longest))
    yield from small[:-1]
    if speed.logits_chunk > CHUNK:
        yield f"speed.logits_chunk={CHUNK}", replace(config, speed=replace(speed, logits_chunk=CHUNK))
    plain = config.quant.kind is QuantKind.none and stored_quantization(budget.architecture) is None
    if not whole and plain:
        four = replace(config, quant=QuantConfig(kind=QuantKind.nf4, double_quant=True))
        yield "quant=nf4", four
        yield from ((f"quant=nf4 {words}", other) for words, other in _smaller_micro_batches(four, budget.longest))
    yield from small[-1:]
    eight = OptimizerName.paged_adamw_8bit if cuda else OptimizerName.adamw_8bit
    fsdp = config.distributed.kind is DistributedKind.fsdp
    if trainer.optimizer is OptimizerName.adamw and not fsdp:
        yield f"trainer.optimizer={eight.value}", replace(config, trainer=replace(trainer, optimizer=eight))
    if budget.target.processes > 1 and not fsdp:
        yield "distributed=fsdp", replace(config, distributed=DistributedConfig(kind=DistributedKind.fsdp))
    if whole:
        lora = replace(config, adapter=AdapterConfig(), loss=replace(config.loss))
        yield "adapter=lora", lora
        yield "adapter=lora quant=nf4", replace(lora, quant=QuantConfig(kind=QuantKind.nf4, double_quant=True))


def _smaller_micro_batches(config: Config, longest: int) -> Iterator[tuple[str, Config]]:
    """Ever smaller micro-batches, down to the longest example the config allows."""
    tokens, least = config.speed.tokens_per_micro_batch, config.trainer.max_length
    while tokens > least:
        tokens = max(least, tokens // 2)
        words = f"speed.tokens_per_micro_batch={tokens}"
        yield words, replace(config, speed=replace(config.speed, tokens_per_micro_batch=tokens))
    if config.adapter.kind is AdapterKind.lora and longest < least:
        speed = replace(config.speed, tokens_per_micro_batch=longest)
        words = f"trainer.max_length={longest} speed.tokens_per_micro_batch={longest}"
        yield words, replace(config, trainer=replace(config.trainer, max_length=longest), speed=speed)


def memory_target(config: Config, card: Gpu | None, machine: ComputeSetup, free: int) -> MemoryTarget:
    """What the run is to fit into: the named card, or what this machine has.

    Args:
        config: The run's processes, and compute type.
        card: The named one, if one is.
        machine: This one.
        free: Bytes that are free here.

    Raises:
        SftError: The named card has no bfloat16, which is asked for.
    """
    number = world_size(config, torch.cuda.device_count())
    if card is None and not trains_on_cluster(config):
        return MemoryTarget("this machine", machine, free, number)
    half = torch.bfloat16 if card is None or card.bfloat16 else torch.float16
    cuda = ComputeSetup(torch.device("cuda"), DTYPES.get(config.trainer.dtype, half))
    if card is None:
        return MemoryTarget("the job's card", cuda, None, number)
    if cuda.dtype is torch.bfloat16 and not card.bfloat16:
        raise SftError(
            where=f"trainer.dtype={config.trainer.dtype.value}",
            problem=f"--gpu {card.name} does not multiply in it",
            fix="trainer.dtype=auto, which takes float16 there",
        )
    return MemoryTarget(f"--gpu {card.name}", cuda, card.memory - CONTEXT, number, card)


def trains_on_cluster(config: Config) -> bool:
    """Whether a SLURM job trains on cards that this machine need not have."""
    return config.launcher.kind is LauncherKind.slurm and config.launcher.gpus > 0
