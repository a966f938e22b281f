"""Before the weights load: everything that can be found wrong without them."""

import shutil
from pathlib import Path

import psutil
import torch

from sft_cli.chat import parity
from sft_cli.config.schema import AdapterKind, Config, OptimizerName
from sft_cli.console import gib, say
from sft_cli.data.prepared import Prepared
from sft_cli.errors import SftError, raise_all
from sft_cli.model.adapters import target_modules
from sft_cli.model.load import context_length, empty_model, load_config
from sft_cli.model.machine import Machine
from sft_cli.model.memory import MemoryEstimate, estimate


def check(config: Config, prepared: Prepared, machine: Machine, run_dir: Path) -> None:
    """Refuse what cannot work, all of it at once; print the estimate of memory.

    Raises:
        SftError: Paths, disk, optimizer, context length, vocabulary or train/serve parity.
    """
    problems = []
    if config.trainer.optimizer is not OptimizerName.adamw and machine.device.type == "cpu":
        problems.append(
            SftError(
                where=f"trainer.optimizer={config.trainer.optimizer.value}",
                problem="the 8-bit optimizers of bitsandbytes run on CUDA only",
                fix="trainer.optimizer=adamw",
            )
        )
    architecture = load_config(config.model)
    text = architecture.get_text_config()
    longest = int(max(prepared.train.lengths.max(), max(prepared.validation.lengths, default=0)))
    if (limit := context_length(architecture)) is not None and longest > limit:
        problems.append(
            SftError(
                where=f"trainer.max_length={config.trainer.max_length}",
                problem=f"the longest example has {longest} tokens, the model takes {limit}",
                fix=f"trainer.max_length={limit}",
            )
        )
    largest = max(prepared.train.largest_id(), prepared.validation.largest_id())
    if largest >= text.vocab_size:
        problems.append(
            SftError(
                where="model.tokenizer",
                problem=f"the data holds token id {largest}, the model knows {text.vocab_size} tokens",
                fix="use the model's own tokenizer: leave model.tokenizer out",
            )
        )
    if config.adapter.kind is AdapterKind.lora:
        try:
            target_modules(empty_model(architecture, config.model.trust_remote_code), config.adapter.target_modules)
        except SftError as error:
            problems.append(error)
    needed = expected_memory(config, prepared, machine)
    free_disk = shutil.disk_usage(next(folder for folder in run_dir.absolute().parents if folder.is_dir())).free
    on_disk = (config.trainer.keep_checkpoints + 2) * needed.training
    if on_disk > free_disk:
        problems.append(
            SftError(
                where=f"run_dir={run_dir}",
                problem=f"checkpoints need about {gib(on_disk)}, the disk has {gib(free_disk)} free",
                fix="run_dir=DIR on another disk, or trainer.keep_checkpoints=1",
            )
        )
    raise_all(problems)
    compared = parity.check(
        prepared.tokenizer_directory,
        parity.load(prepared.directory / "golden.json"),
        architecture,
        trust_remote_code=config.model.trust_remote_code,
    )
    say(f"parity    {compared} golden prompts: transformers makes the ids that are trained")
    _check_memory(config, needed, machine)


def expected_memory(config: Config, prepared: Prepared, machine: Machine) -> MemoryEstimate:
    """The estimate for this run's largest micro-batch."""
    total = int(prepared.train.lengths.sum())
    return estimate(
        load_config(config.model),
        config.quant,
        config.adapter,
        tokens=min(config.trainer.tokens_per_micro_batch, total),
        dtype=machine.dtype,
        chunk=config.trainer.logits_chunk,
        checkpointing=config.trainer.gradient_checkpointing,
        optimizer_bytes=8 if config.trainer.optimizer is OptimizerName.adamw else 2,
        trust_remote_code=config.model.trust_remote_code,
    )


def _check_memory(config: Config, needed: MemoryEstimate, machine: Machine) -> None:
    """Print the estimate; refuse when not even weights and optimizer fit."""
    if machine.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
    else:
        free = psutil.virtual_memory().available
    say(
        f"memory    about {gib(needed.total)} ({gib(needed.weights)} weights, {gib(needed.training)} training state,"
        f" {gib(needed.activations + needed.logits)} activations), {gib(free)} free"
    )
    if needed.weights + needed.training > free:
        hint = "quant=nf4" if config.adapter.kind is AdapterKind.lora else "adapter=lora quant=nf4"
        raise SftError(
            where=f"model.path={config.model.path}",
            problem=f"weights and training state need about {gib(needed.weights + needed.training)},"
            f" {gib(free)} is free",
            fix=f"{hint}, a smaller model, or a larger device",
        )
