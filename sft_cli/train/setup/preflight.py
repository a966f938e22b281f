"""Checks before the weights are loaded: everything that can be checked without them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PretrainedConfig

from sft_cli.chat.masks import parity
from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.adapter import VIRTUAL, WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.schema.trainer import OptimizerName, TrainerConfig
from sft_cli.console import gib, say
from sft_cli.data.lengths import RowLengths
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError, raise_all
from sft_cli.model.adapter.base_weights import trainable_names
from sft_cli.model.adapter.prompt_learning import num_virtual_positions, virtual_tokens_config
from sft_cli.model.adapter.targets import check_adapter
from sft_cli.model.adapter.warm_start import initial_adapters
from sft_cli.model.device import ComputeSetup, free_memory
from sft_cli.model.language_model import check_separable
from sft_cli.model.load import empty_model, load_model_config, model_context_length
from sft_cli.model.memory.checkpointing import CheckpointingPlan, choose_checkpointing
from sft_cli.model.memory.estimate import MemoryEstimate, shard_estimate
from sft_cli.model.memory.measure import MeasuredModel, measure_model
from sft_cli.model.prequantized import check_quantization
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.trackers import tracker_problems
from sft_cli.train.optimizers.optimizers import optimizer_state_bytes
from sft_cli.train.setup.micro_batch import (
    MicroBatch,
    RowTokens,
    choose_micro_batch,
    largest_micro_batch,
    micro_batch_tokens,
)
from sft_cli.train.setup.shared_keys import count_shared_keys
from sft_cli.utils.disks import free_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a run computes at once, and what it recomputes, so that it fits into memory.

    Attributes:
        micro_batch: The size of micro-batches.
        recompute: The layers that are recomputed.
        estimate: The estimated peak bytes of a process; None if the activations are not known.
    """

    micro_batch: MicroBatch
    recompute: CheckpointingPlan
    estimate: int | None


def run_preflight(
    config: Config, prepared: PreparedData, machine: ComputeSetup, run_dir: Path, processes: int = 1
) -> MemoryPlan:
    """Check the run, report all problems at once, print the memory estimate, and choose what fits into memory.

    Args:
        config: The settings of the run.
        prepared: The rows.
        machine: The device and the type of computation.
        run_dir: Where checkpoints are written.
        processes: Number of processes of the run.

    Raises:
        SftError: A problem of paths, disk, optimizer, context length, vocabulary or train/serve parity.
    """
    architecture = load_model_config(config.model)
    problems, countable = find_config_problems(config, architecture, prepared, machine.device.type)
    if not countable:
        raise_all(problems)
    rows = RowTokens.of(config, prepared, processes)
    shared_keys = count_shared_keys(config, prepared, largest_micro_batch(config, rows, machine.device).tokens)
    measured = count_step_memory(config, architecture, machine, rows.typical, shared_keys)
    estimate = partial(micro_batch_memory, config, measured, rows)
    if (disk_error := disk_problem(config, estimate(rows.longest), run_dir)) is not None:
        problems.append(disk_error)
    raise_all(problems)
    compared = check_golden_prompts(config, architecture, prepared)
    say(f"parity    {compared} rows, at least one of each kind: an inference server produces the trained token ids")
    return _plan_memory(config, rows, partial(estimate, processes=processes), machine)


def find_config_problems(
    config: Config, architecture: PretrainedConfig, prepared: PreparedData, device: str
) -> tuple[list[SftError], bool]:
    """Find settings that cannot work with this model and these rows.

    Args:
        config: The settings of the run.
        architecture: The model's configuration.
        prepared: The rows, or a sample of them.
        device: Type of the device that will train: ``cpu`` or ``cuda``.

    Returns:
        The errors, and whether the memory of a step can be counted despite them.
    """
    problems = [*_device_problems(config, device), *_size_problems(config, architecture, prepared)]
    problems += [*_holdout_problems(config, prepared), *tracker_problems(config)]
    try:
        initial_adapters(config.adapter)
        full = config.adapter.kind in WHOLE
        check_quantization(architecture, config.model, config.quant, full=full)
        empty = empty_model(architecture, config.model.trust_remote_code)
        check_separable(empty, f"model.path={config.model.path}")
        check_adapter(empty, config.adapter)
        if full:
            trainable_names(empty, config.adapter)
        elif config.adapter.kind in VIRTUAL:
            virtual_tokens_config(empty, config.adapter)
    except SftError as error:
        return [*problems, error], False
    return problems, True


def _device_problems(config: Config, device: str) -> Iterator[SftError]:
    """Yield an error for each setting that the device does not support."""
    if config.trainer.optimizer is OptimizerName.paged_adamw_8bit and device == "cpu":
        yield SftError(
            where=f"trainer.optimizer={config.trainer.optimizer.value}",
            problem="paged optimizer state is in CUDA's memory, and this machine has no CUDA device",
            fix="trainer.optimizer=adamw_8bit, or adamw, which is much faster on a CPU",
        )
    if config.speed.gradient_checkpointing is Checkpointing.offload and device == "cpu":
        yield SftError(
            where="speed.gradient_checkpointing=offload",
            problem="on a CPU the layers' inputs are in main memory already",
            fix="speed.gradient_checkpointing=full",
        )


def _holdout_problems(config: Config, prepared: PreparedData) -> Iterator[SftError]:
    """Yield an error for each setting that needs held-out rows, if no rows are held out."""
    if len(prepared.validation):
        return
    rows = prepared.manifest["splits"]["train"]["rows"]
    needing = {
        "trainer.patience": config.trainer.patience if config.trainer.best is None else None,
        "eval.compare_after_training": config.eval.compare_after_training,
    }
    for key, value in needing.items():
        if value:
            yield SftError(
                where=f"{key}={str(value).lower()}",
                problem=f"it needs held-out rows, and of {rows} rows none are held out by default",
                fix="data.val_fraction=0.1, or data.mix.NAME.validation_path=FILE",
            )


def _size_problems(config: Config, architecture: PretrainedConfig, prepared: PreparedData) -> Iterator[SftError]:
    """Yield errors for rows that are too long for the model, and token ids outside its vocabulary."""
    text = architecture.get_text_config()
    longest, virtual = prepared.longest_example, num_virtual_positions(config.adapter)
    if (limit := model_context_length(architecture)) is not None and longest + virtual > limit:
        vectors = f" and {virtual} trained vectors" if virtual else ""
        chosen = config.trainer.max_length
        yield SftError(
            where=f"model.path={config.model.path}"
            if chosen == TrainerConfig.max_length
            else f"trainer.max_length={chosen}",
            problem=f"the longest example has {longest} tokens{vectors}, the model takes {limit}",
            fix=_length_advice(config, prepared, limit - virtual)
            if limit - virtual >= 8
            else f"adapter.virtual.tokens={max(1, min(virtual - 1, limit // 10))}",
        )
    new = added_ids(load_tokenizer(str(prepared.tokenizer_directory)), config.model.add_tokens)
    vocabulary = max(text.vocab_size, *(id + 1 for id in new), 0)
    largest = max(prepared.train.largest_id(), prepared.validation.largest_id())
    if largest >= vocabulary:
        yield SftError(
            where="model.tokenizer",
            problem=f"the data hold token id {largest}, but the model has {vocabulary} tokens",
            fix="remove model.tokenizer: the model's own tokenizer is then used",
        )


def _length_advice(config: Config, prepared: PreparedData, context: int) -> str:
    """Return settings that fit the examples into ``context`` tokens, and the fraction of examples that each keeps."""
    tokens, least = [], []
    for split in (prepared.train, prepared.validation):
        fewest = split.lengths.copy()
        for index in np.flatnonzero(fewest > context):
            fewest[index] = np.flatnonzero(split.tokens(int(index)).weights)[0] + 1
        tokens.append(split.lengths)
        least.append(fewest)
    lengths = RowLengths(
        np.concatenate(tokens),
        np.concatenate(least),
        num_other_losses=sum(prepared.manifest["dropped"].values()),
        max_length=config.trainer.max_length,
        context=context,
        first_too_long=None,
        longest="",
    )
    return lengths.advice(config.data.budget, config.data.overflow)


EXTRA_CHECKPOINTS = 2
"""Checkpoints on the disk in addition to those that are kept: the best one, and the one that is being written."""


def disk_problem(config: Config, memory: MemoryEstimate, run_dir: Path) -> SftError | None:
    """Return an error if the checkpoints do not fit on the disk of the run directory; otherwise None.

    The space that existing checkpoints of a resumed run take is counted as available.
    """
    free_space, needed_bytes = free_bytes(run_dir), checkpoint_bytes(config, memory)
    existing = sum(file.stat().st_size for file in RunDir(run_dir).checkpoints.rglob("*") if file.is_file())
    if needed_bytes - existing <= free_space:
        return None
    one = needed_bytes // (config.trainer.keep_checkpoints + EXTRA_CHECKPOINTS)
    fitting = (free_space + existing) // one - EXTRA_CHECKPOINTS
    if fitting >= 1:
        fewer = f"trainer.keep_checkpoints={fitting}, or "
    else:
        fewer = "" if config.adapter.kind not in WHOLE else "adapter=lora, whose checkpoints are small, or "
    return SftError(
        where=f"run_dir={run_dir}",
        problem=f"checkpoints need about {gib(needed_bytes)}, the disk has {gib(free_space)} free",
        fix=f"{fewer}run_dir=DIR on a disk with {gib(needed_bytes)} free",
    )


def checkpoint_bytes(config: Config, memory: MemoryEstimate) -> int:
    """Return the bytes of all checkpoints on the disk at a time: those kept, the best one, and one being written."""
    return (config.trainer.keep_checkpoints + EXTRA_CHECKPOINTS) * (memory.parameters + memory.optimizer_state)


def check_golden_prompts(config: Config, architecture: PretrainedConfig, prepared: PreparedData) -> int:
    """Check that transformers encodes the golden prompts to the trained ids, as a server does; return their number.

    Raises:
        SftError: It encodes a prompt to other ids.
    """
    goldens = parity.load_golden_prompts(prepared.directory / "golden.json")
    trusted = config.model.trust_remote_code
    return parity.check_parity(prepared.tokenizer_directory, goldens, architecture, trust_remote_code=trusted)


def count_step_memory(
    config: Config, architecture: PretrainedConfig, machine: ComputeSetup, document: int, shared_keys: float = 1.0
) -> MeasuredModel:
    """Measure the memory of a step of this model; the result serves all micro-batch sizes, quantizations, optimizers.

    Args:
        config: The settings of the run.
        architecture: The model's own configuration.
        machine: The device and the dtype of computation.
        document: Number of tokens of a document.
        shared_keys: See ``shared_keys.count_shared_keys``.
    """
    settings = (config.model, config.adapter, config.speed, config.loss)
    return measure_model(architecture, *settings, setup=machine, document=document, keys_per_token=shared_keys)


def micro_batch_memory(
    config: Config, measured: MeasuredModel, rows: RowTokens, tokens: int, processes: int = 1
) -> MemoryEstimate:
    """Return the memory estimate for one of ``processes`` with micro-batches of up to ``tokens`` tokens."""
    optimizer_bytes = optimizer_state_bytes(config.trainer)
    tokens = micro_batch_tokens(config, rows, tokens)
    estimate = measured.memory(config.quant, config.speed, config.loss, tokens=tokens, optimizer_bytes=optimizer_bytes)
    return shard_estimate(estimate, config.distributed, processes)


def _plan_memory(
    config: Config, rows: RowTokens, estimate: Callable[[int], MemoryEstimate], machine: ComputeSetup
) -> MemoryPlan:
    """Choose the size of micro-batches and the recomputed layers, and print the estimate.

    Raises:
        SftError: The weights and the optimizer state do not fit.
    """
    free = free_memory(machine.device)
    micro_batch = choose_micro_batch(config, rows, estimate, free, machine.device)
    memory = estimate(micro_batch.tokens)
    recompute = choose_checkpointing(config.speed, memory, free, machine.device)
    mode, layers = recompute.mode, recompute.layers
    total = f"{gib(memory.total(mode, layers))} ({gib(memory.weights)} weights, {gib(memory.training)} training state"
    if memory.saved.unknown:
        say(f"memory    at least {total}), {gib(free)} free; the activations of this family are not known:")
        say(f"          {memory.saved.unknown}")
    else:
        activations = memory.activations(mode, layers) + memory.transient(mode, layers)
        overhead = memory.overhead(mode, layers)
        process = f", {gib(overhead)} process overhead" if overhead else ""
        say(f"memory    about {total}, {gib(activations)} activations{process}), {gib(free)} free")
    say(f"          {recompute.describe()}")
    say(f"          {micro_batch.describe()}")
    if memory.weights + memory.training > free:
        hint = "adapter=lora quant=nf4" if config.adapter.kind in WHOLE else "quant=nf4"
        raise SftError(
            where=f"model.path={config.model.path}",
            problem=f"weights and training state need about {gib(memory.weights + memory.training)},"
            f" {gib(free)} is free",
            fix=f"{hint}, or model.path=DIR_OR_HUB_ID of a smaller model",
        )
    return MemoryPlan(micro_batch, recompute, None if memory.saved.unknown else round(memory.total(mode, layers)))
