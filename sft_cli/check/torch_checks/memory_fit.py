"""Compare the memory that a run needs, item by item, with the available memory, and find settings that fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from transformers import PretrainedConfig

from sft_cli.check.gpus import Gpu
from sft_cli.check.paths_and_ports import world_size
from sft_cli.check.results import CheckResult, fail, ok, warn
from sft_cli.config.schema.adapter import WHOLE, AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind, LauncherKind
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.schema.trainer import OptimizerName
from sft_cli.console import gib
from sft_cli.errors import SftError
from sft_cli.model.device import DTYPES, ComputeSetup
from sft_cli.model.memory.checkpointing import MEMORY_MARGIN, CheckpointingPlan, choose_checkpointing
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.measure import MeasuredModel
from sft_cli.model.prequantized import stored_quantization
from sft_cli.train.setup.micro_batch import MicroBatch, RowTokens, choose_micro_batch, micro_batch_tokens
from sft_cli.train.setup.preflight import count_step_memory, micro_batch_memory

CONTEXT = 2**30 * 6 // 10
"""Bytes of GPU memory used by CUDA, cuBLAS and NCCL; an assumption, not a measurement."""
CHUNK = 256
"""Trained positions whose logits take little memory even with a vocabulary of 150,000 tokens."""


@dataclass(frozen=True)
class MemoryTarget:
    """The memory that a run must fit into.

    Attributes:
        name: Name in messages.
        machine: Device and compute type.
        free: Bytes available to a run on one GPU, or in main memory; None if unknown.
        processes: Number of processes.
        card: The GPU, if it is a known one.
    """

    name: str
    machine: ComputeSetup
    free: int | None
    processes: int
    card: Gpu | None = None


@dataclass(frozen=True)
class MemoryNeed:
    """Memory that one process needs with some settings.

    Attributes:
        memory: The estimate, sharded where the run is.
        recompute: The layers that the backward pass recomputes.
        micro_batch: The most tokens of a micro-batch.
        tokens: Tokens of the largest micro-batch.
    """

    memory: MemoryEstimate
    recompute: CheckpointingPlan
    micro_batch: MicroBatch
    tokens: int

    @property
    def total(self) -> int:
        """Peak memory in bytes."""
        return self.memory.total(self.recompute.mode, self.recompute.layers)


@dataclass(frozen=True)
class MemoryPlanner:
    """Estimates the memory of a run with its own and other settings.

    Attributes:
        config: The config of the run.
        architecture: The configuration of the model.
        target: The memory to fit into.
        rows: The tokens of its rows.
        shared_keys: See ``count_shared_keys``.
        measured: Cache of measured models, by the settings that affect them.
    """

    config: Config
    architecture: PretrainedConfig
    target: MemoryTarget
    rows: RowTokens
    shared_keys: float = 1.0
    measured: dict[str, MeasuredModel] = field(default_factory=dict, repr=False)

    def need(self, config: Config) -> MemoryNeed:
        """Return the memory of a process with the settings of a config: that of the run, or a variant of it."""
        free, device = self.target.free, self.target.machine.device
        estimate = self.estimate(config)
        micro_batch = choose_micro_batch(config, self.rows, estimate, free, device)
        needed = estimate(micro_batch.tokens)
        recompute = choose_checkpointing(config.speed, needed, 2**63 if free is None else free, device)
        return MemoryNeed(needed, recompute, micro_batch, micro_batch_tokens(config, self.rows, micro_batch.tokens))

    def estimate(self, config: Config, processes: int | None = None) -> Callable[[int], MemoryEstimate]:
        """Return the function that estimates the memory of a process by the tokens of a micro-batch.

        Args:
            config: The config of the run, or a variant of it.
            processes: Number of processes; None: those of the target.
        """
        processes = processes or self.target.processes
        key = repr((config.adapter, config.speed.fused, config.speed.packing))
        if key not in self.measured:
            self.measured[key] = count_step_memory(
                config, self.architecture, self.target.machine, self.rows.typical, self.shared_keys
            )
        return partial(micro_batch_memory, config, self.measured[key], self.rows, processes=processes)

    def fits(self, need: MemoryNeed) -> bool:
        """Return whether the run fits, without a safety margin."""
        return self.target.free is None or need.total <= self.target.free


def memory_checks(budget: MemoryPlanner) -> list[CheckResult]:
    """Return the check that the run fits, with the memory of each item, and settings to type if it does not."""
    config, target = budget.config, budget.target
    need = budget.need(config)
    recompute = need.recompute.describe().removeprefix("recompute ")
    more = [*_table(budget, need), f"recompute: {recompute}", need.micro_batch.describe()]
    about = f"about {gib(need.total)} of memory per {'GPU' if target.machine.device.type == 'cuda' else 'process'}"
    if unknown := need.memory.saved.unknown:
        text = f"at least {about.removeprefix('about ')}; the activations of this family are not known: {unknown}"
        return [warn("memory", text, "train a few steps: trainer.max_steps=5", more)]
    if target.free is None:
        return [warn("memory", f"{about}; no GPU is named, and none is here", "--gpu 24GB, or --gpu h100", more)]
    text = f"{about}, {gib(target.free)} free on {target.name}"
    if not budget.fits(need):
        return [fail("memory", f"the run does not fit: {text}", _advice(budget, need), more)]
    if need.total > target.free * (1 - MEMORY_MARGIN):
        return [warn("memory", f"{text}: less than {MEMORY_MARGIN:.0%} to spare", _advice(budget, need), more)]
    return [ok("memory", text, more=more)]


def _table(budget: MemoryPlanner, need: MemoryNeed) -> list[str]:
    """Return a line for each memory item."""
    memory, config = need.memory, budget.config
    mode, layers = need.recompute.mode, need.recompute.layers
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
    lines = [f"{name:<46} {gib(size):>10}" for name, size in rows if size]
    longest, estimate = budget.rows.longest, budget.estimate(config)
    longest_activations = estimate(longest).activations(mode, layers)
    return [
        *lines,
        f"for comparison: the longest row, {longest:,} tokens, has {gib(longest_activations)} of activations;"
        f" logits alone take {gib(memory.logits)}",
    ]


def _advice(budget: MemoryPlanner, need: MemoryNeed) -> str:
    """Return the first setting that makes the run fit, with its memory; else the smallest memory it can have."""
    available = int((budget.target.free or 0) * (1 - MEMORY_MARGIN))
    for words, config in cheaper_settings(budget):
        other = budget.need(config)
        if other.total <= available:
            return f"{words} ({gib(other.total)}; {other.recompute.describe()})"
    least = min((budget.need(config).total for _, config in cheaper_settings(budget)), default=need.total)
    return (
        f"no single setting makes it fit, the least is {gib(least)}: use a larger GPU, more GPUs with"
        " distributed=fsdp, or a smaller model or trainer.max_length"
    )


def cheaper_settings(budget: MemoryPlanner) -> Iterator[tuple[str, Config]]:
    """Yield settings that need less memory, cheapest first: the words to type, and the resulting config."""
    config = budget.config
    trainer, speed, whole = config.trainer, config.speed, config.adapter.kind in WHOLE
    cuda = budget.target.machine.device.type == "cuda"
    if speed.gradient_checkpointing not in (Checkpointing.auto, Checkpointing.full, Checkpointing.offload):
        free = replace(speed, gradient_checkpointing=Checkpointing.auto, checkpointed_layers=None)
        yield "speed.gradient_checkpointing=auto", replace(config, speed=free)
    small = list(_smaller_micro_batches(config, budget.rows.longest))
    yield from small[:-1]
    if speed.logits_chunk > CHUNK:
        yield f"speed.logits_chunk={CHUNK}", replace(config, speed=replace(speed, logits_chunk=CHUNK))
    unquantized = config.quant.kind is QuantKind.none and stored_quantization(budget.architecture) is None
    if not whole and unquantized:
        four_bit = replace(config, quant=QuantConfig(kind=QuantKind.nf4, double_quant=True))
        yield "quant=nf4", four_bit
        yield from (
            (f"quant=nf4 {words}", other) for words, other in _smaller_micro_batches(four_bit, budget.rows.longest)
        )
    yield from small[-1:]
    eight_bit = OptimizerName.paged_adamw_8bit if cuda else OptimizerName.adamw_8bit
    fsdp = config.distributed.kind is DistributedKind.fsdp
    if trainer.optimizer is OptimizerName.adamw and not fsdp:
        yield f"trainer.optimizer={eight_bit.value}", replace(config, trainer=replace(trainer, optimizer=eight_bit))
    if budget.target.processes > 1 and not fsdp:
        yield "distributed=fsdp", replace(config, distributed=DistributedConfig(kind=DistributedKind.fsdp))
    if whole:
        lora = replace(config, adapter=AdapterConfig(), loss=replace(config.loss))
        yield "adapter=lora", lora
        yield "adapter=lora quant=nf4", replace(lora, quant=QuantConfig(kind=QuantKind.nf4, double_quant=True))


def _smaller_micro_batches(config: Config, longest: int) -> Iterator[tuple[str, Config]]:
    """Yield ever smaller micro-batches, unless they are chosen; then a ``max_length`` of the longest example."""
    tokens, least = config.speed.tokens_per_micro_batch, config.trainer.max_length
    while not isinstance(tokens, Auto) and tokens > least:
        tokens = max(least, tokens // 2)
        words = f"speed.tokens_per_micro_batch={tokens}"
        yield words, replace(config, speed=replace(config.speed, tokens_per_micro_batch=tokens))
    if config.adapter.kind is AdapterKind.lora and longest < least:
        speed, words = config.speed, f"trainer.max_length={longest}"
        if not isinstance(tokens, Auto):
            speed, words = (
                replace(speed, tokens_per_micro_batch=longest),
                f"{words} speed.tokens_per_micro_batch={longest}",
            )
        yield words, replace(config, trainer=replace(config.trainer, max_length=longest), speed=speed)


def memory_target(config: Config, card: Gpu | None, machine: ComputeSetup, free: int) -> MemoryTarget:
    """Return the memory to fit into: that of the named GPU, or of this machine.

    Args:
        config: The config of the run.
        card: The named GPU, if any.
        machine: Compute setup of this machine.
        free: Free bytes on this machine.

    Raises:
        SftError: The config asks for bfloat16, which the named GPU does not support.
    """
    number = world_size(config, torch.cuda.device_count())
    if card is None and not trains_on_cluster(config):
        return MemoryTarget("this machine", machine, free, number)
    half = torch.bfloat16 if card is None or card.bfloat16 else torch.float16
    cuda = ComputeSetup(torch.device("cuda"), DTYPES.get(config.trainer.dtype, half))
    if card is None:
        return MemoryTarget("the GPU of the job", cuda, None, number)
    if cuda.dtype is torch.bfloat16 and not card.bfloat16:
        raise SftError(
            where=f"trainer.dtype={config.trainer.dtype.value}",
            problem=f"--gpu {card.name} does not support this type",
            fix="trainer.dtype=auto, which takes float16 there",
        )
    return MemoryTarget(f"a GPU ({card.name})", cuda, card.memory - CONTEXT, number, card)


def trains_on_cluster(config: Config) -> bool:
    """Return whether a SLURM job trains on GPUs that this machine need not have."""
    return config.launcher.kind is LauncherKind.slurm and config.launcher.gpus > 0
