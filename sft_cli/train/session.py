"""One training session: from a config and prepared data to a run directory with a trained adapter or model."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from sft_cli.chat.tokenizer import load_tokenizer
from sft_cli.config.rundir import RunDir
from sft_cli.config.schema import AdapterKind, Config
from sft_cli.console import say
from sft_cli.data.prepared import Prepared
from sft_cli.errors import SftError
from sft_cli.model.adapters import add_adapter, save_memory
from sft_cli.model.head import LossModel, packed_loss_model
from sft_cli.model.load import load_model
from sft_cli.model.machine import Machine, choose_machine
from sft_cli.train import checkpoint, preflight
from sft_cli.train.checkpoint import Parts, Progress
from sft_cli.train.claim import claimed, write_whole
from sft_cli.train.environment import environment
from sft_cli.train.export import export, write_probes
from sft_cli.train.identity import identity, refuse_other
from sft_cli.train.loop import Run, Stopped, fit
from sft_cli.train.optimizer import make_optimizer, make_schedule
from sft_cli.train.schedule import plan
from sft_cli.train.watch import Watch

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def train(config: Config, prepared: Prepared, directory: RunDir, *, resumed: bool) -> None:
    """Train, export, and print what came out.

    Raises:
        SftError: The preflight or a checkpoint refuses, or the loss diverges.
        SystemExit: A signal stopped the run; it can be resumed.
    """
    machine = choose_machine(config.trainer)
    preflight.check(config, prepared, machine, directory.path)
    _refuse_other_data(directory, prepared)
    with claimed(directory, config, resumed=resumed) as directory:
        _describe(directory, prepared, machine)
        _train(config, prepared, directory, machine)


def _train(config: Config, prepared: Prepared, directory: RunDir, machine: Machine) -> None:
    """Build, resume, fit, export, compare."""
    started = time.perf_counter()
    set_seed(config.trainer.seed)
    tokenizer = load_tokenizer(str(directory.tokenizer))
    stop_ids = [tokenizer.control[name] for name in prepared.manifest["stop_tokens"]]
    accelerator = Accelerator(cpu=machine.device.type == "cpu", mixed_precision=MIXED[machine.dtype])
    loss_model = _build_model(config, machine, stop_ids, accelerator)
    watch = Watch(config, prepared.validation, loss_model, accelerator, tokenizer, stop_ids)
    run, parts = _assemble(config, prepared, directory, loss_model, accelerator, watch, machine)
    last = checkpoint.newest(directory.checkpoints)
    before = _base(config, directory, watch, begun=last is not None)
    progress = _resume(run, parts, last)
    try:
        progress = fit(run, parts, progress)
    except Stopped as stopped:
        say(f"stopped   behind step {stopped.step}, saved; resume with: sft train run={shown(directory)}")
        sys.exit(128 + stopped.signal)
    if config.trainer.keep_best and progress.best_step not in (None, progress.step):
        say(f"best      step {progress.best_step} (held-out loss {progress.best_loss:.4f}); its weights are exported")
        checkpoint.restore_trained(directory.checkpoints / f"step-{progress.best_step}", parts.model)
    result = export(loss_model.model, directory, stop_ids)
    if before is not None:
        watch.compare(before)
    say(f"finished  {progress.step} steps in {time.perf_counter() - started:.0f} s: {result}")
    say(f"next      sft eval run={shown(directory)} compare=base")
    if config.adapter.kind is AdapterKind.lora:
        say(f"          sft merge run={shown(directory)} out={shlex.quote(str(directory.path / 'merged'))}")


def shown(directory: RunDir) -> str:
    """The run directory as it can be pasted into a shell."""
    return shlex.quote(str(directory.path))


def _base(config: Config, directory: RunDir, watch: Watch, *, begun: bool) -> dict[str, Any] | None:
    """Scores of the base model, if they are wanted; they can only be had before the first step."""
    if not config.eval.compare_after_training:
        return None
    if begun and not directory.before.is_file():
        raise SftError(
            where="eval.compare_after_training",
            problem="the run has begun without it, and the base was not evaluated before training",
            fix=f"leave it out, and compare afterwards: sft eval run={shown(directory)} compare=base",
        )
    return watch.base(directory)


def _refuse_other_data(directory: RunDir, prepared: Prepared) -> None:
    """Refuse to resume a run on other rows than it began with, before anything of it is written over."""
    if directory.data.is_file():
        began = {"data": directory.read(directory.data)["content"]}
        refuse_other(str(directory.path), began, {"data": prepared.manifest["content"]})


def _describe(directory: RunDir, prepared: Prepared, machine: Machine) -> None:
    """Write what is known before training: versions, the data, and the tokenizer that will serve the model."""
    say(f"run       {directory.path}")
    values = environment(machine.device, machine.dtype)
    write_whole(directory.environment, json.dumps(values, indent=2) + "\n")
    found = {key: prepared.manifest[key] for key in ("fingerprint", "content")}
    data = {"prepared_dir": str(prepared.directory.resolve()), **found}
    write_probes(directory, prepared)
    write_whole(directory.data, json.dumps(data, indent=2) + "\n")


def _build_model(config: Config, machine: Machine, stop_ids: list[int], accelerator: Accelerator) -> LossModel:
    """Load, adapt and probe the model."""
    full = config.adapter.kind is AdapterKind.none
    model: nn.Module = load_model(
        config.model, config.quant, full=full, device=machine.device, compute_dtype=machine.dtype
    )
    if not full:
        report = add_adapter(model, config.adapter, stop_ids, seed=config.trainer.seed)
        model = report.model
        say(f"adapter   {report.trainable:,} of {report.total:,} parameters are trained")
        if report.stop_rows:
            say(f"stop      the embedding of stop token {list(report.stop_rows)} is trained too (it looked untrained)")
    if config.trainer.gradient_checkpointing:
        save_memory(model)
    with accelerator.autocast():
        loss_model, probed = packed_loss_model(model, config.trainer.logits_chunk)
    if probed.packed_ok:
        say(f"packing   proven: packed and solo logits agree ({probed.difference:.1e})")
    else:
        say(f"packing   off, one example per row: {probed.reason}")
    return loss_model


def _assemble(
    config: Config,
    prepared: Prepared,
    directory: RunDir,
    loss_model: LossModel,
    accelerator: Accelerator,
    watch: Watch,
    machine: Machine,
) -> tuple[Run, Parts]:
    """What the loop reads and what it changes."""
    trainer = config.trainer
    steps = plan(prepared.stages, trainer.examples_per_step, trainer.epochs, trainer.max_steps, trainer.seed)
    optimizer = make_optimizer(loss_model, trainer)
    schedule = make_schedule(optimizer, trainer, steps.num_steps)
    wrapped, optimizer = accelerator.prepare(loss_model, optimizer, device_placement=[False, False])
    run = Run(
        directory=directory,
        config=config,
        train=prepared.train,
        plan=steps,
        model=loss_model,
        accelerator=accelerator,
        identity=identity(config, prepared.manifest["content"], str(machine.dtype)),
        evaluate=watch.evaluate if len(prepared.validation) else None,
    )
    return run, Parts(wrapped, optimizer, schedule, accelerator.scaler)


def _resume(run: Run, parts: Parts, last: Path | None) -> Progress:
    """Restore a checkpoint; remove newer ones, which are broken."""
    if last is None:
        return Progress()
    progress = checkpoint.load(last, parts, run.identity)
    checkpoint.forget_after(run.directory.checkpoints, progress.step)
    say(f"resume    behind step {progress.step} of {run.plan.num_steps} ({last})")
    return progress
