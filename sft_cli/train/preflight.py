"""Before the weights load: everything that can be found wrong without them."""

import shutil
from pathlib import Path

from transformers import PretrainedConfig

from sft_cli.chat import parity
from sft_cli.chat.added import added_ids
from sft_cli.chat.tokenizer import load_tokenizer
from sft_cli.config.adapter_schema import VIRTUAL, WHOLE
from sft_cli.config.schema import Config
from sft_cli.config.trainer_schema import Checkpointing, OptimizerName
from sft_cli.console import gib, say
from sft_cli.data.prepared import Prepared
from sft_cli.errors import SftError, raise_all
from sft_cli.model.adapter.partial import selected
from sft_cli.model.adapter.starting import beginnings
from sft_cli.model.adapter.targets import check_adapter
from sft_cli.model.adapter.virtual import places, virtual_tokens_config
from sft_cli.model.load import context_length, empty_model, load_config
from sft_cli.model.machine import Machine, free_memory
from sft_cli.model.memory.checkpointing import Recompute, choose
from sft_cli.model.memory.estimate import MemoryEstimate, estimate
from sft_cli.model.stored import refuse_storage
from sft_cli.train.optimizer import state_bytes


def check(config: Config, prepared: Prepared, machine: Machine, run_dir: Path) -> Recompute:
    """Refuse what cannot work, all of it at once; print the estimate of memory; what the backward pass recomputes.

    Raises:
        SftError: Paths, disk, optimizer, context length, vocabulary or train/serve parity.
    """
    problems = []
    if config.trainer.optimizer is OptimizerName.paged_adamw_8bit and machine.device.type == "cpu":
        problems.append(
            SftError(
                where=f"trainer.optimizer={config.trainer.optimizer.value}",
                problem="paged optimizer state lies in CUDA's memory, and this machine has no CUDA device",
                fix="trainer.optimizer=adamw_8bit, or adamw, which is much faster on a CPU",
            )
        )
    architecture = load_config(config.model)
    text = architecture.get_text_config()
    new = added_ids(load_tokenizer(str(prepared.tokenizer_directory)), config.model.add_tokens)
    vocabulary = max(text.vocab_size, *(id + 1 for id in new), 0)
    longest = int(max(prepared.train.lengths.max(), max(prepared.validation.lengths, default=0)))
    taken = places(config.adapter)
    if (limit := context_length(architecture)) is not None and longest + taken > limit:
        vectors = f" and {taken} trained vectors" if taken else ""
        problems.append(
            SftError(
                where=f"trainer.max_length={config.trainer.max_length}",
                problem=f"the longest example has {longest} tokens{vectors}, the model takes {limit}",
                fix=f"trainer.max_length={limit - taken}" if limit - taken >= 8 else "a smaller adapter.virtual.tokens",
            )
        )
    largest = max(prepared.train.largest_id(), prepared.validation.largest_id())
    if largest >= vocabulary:
        problems.append(
            SftError(
                where="model.tokenizer",
                problem=f"the data holds token id {largest}, the model knows {vocabulary} tokens",
                fix="use the model's own tokenizer: leave model.tokenizer out",
            )
        )
    if config.trainer.gradient_checkpointing is Checkpointing.offload and machine.device.type == "cpu":
        problems.append(
            SftError(
                where="trainer.gradient_checkpointing=offload",
                problem="on a CPU the layers' inputs lie in main memory already",
                fix="trainer.gradient_checkpointing=full",
            )
        )
    try:
        beginnings(config.adapter)
        full = config.adapter.kind in WHOLE
        refuse_storage(architecture, config.model, config.quant, full=full)
        empty = empty_model(architecture, config.model.trust_remote_code)
        check_adapter(empty, config.adapter)
        if full:
            selected(empty, config.adapter)
        elif config.adapter.kind in VIRTUAL:
            virtual_tokens_config(empty, config.adapter)
    except SftError as error:
        raise_all([*problems, error])  # what does not fit on the model cannot be counted
    needed = expected_memory(config, architecture, prepared, machine)
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
    return _check_memory(config, needed, machine)


def expected_memory(
    config: Config, architecture: PretrainedConfig, prepared: Prepared, machine: Machine
) -> MemoryEstimate:
    """The estimate for this run's largest micro-batch."""
    total = int(prepared.train.lengths.sum())
    return estimate(
        architecture,
        config.model,
        config.quant,
        config.adapter,
        config.trainer,
        config.loss,
        tokens=min(config.trainer.tokens_per_micro_batch, total),
        machine=machine,
        optimizer_bytes=state_bytes(config.trainer),
    )


def _check_memory(config: Config, needed: MemoryEstimate, machine: Machine) -> Recompute:
    """Choose what is recomputed, print the estimate; refuse when not even weights and optimizer fit."""
    free = free_memory(machine.device)
    recompute = choose(config.trainer, needed, free, machine.device)
    activations = needed.resident(recompute.mode, recompute.layers)
    say(
        f"memory    about {gib(needed.total(recompute.mode, recompute.layers))} ({gib(needed.weights)} weights,"
        f" {gib(needed.training)} training state, {gib(activations + needed.logits)} activations), {gib(free)} free"
    )
    say(f"          {recompute.sentence()}")
    if needed.weights + needed.training > free:
        hint = "adapter=lora quant=nf4" if config.adapter.kind in WHOLE else "quant=nf4"
        raise SftError(
            where=f"model.path={config.model.path}",
            problem=f"weights and training state need about {gib(needed.weights + needed.training)},"
            f" {gib(free)} is free",
            fix=f"{hint}, a smaller model, or a larger device",
        )
    return recompute
