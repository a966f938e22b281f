"""One training session: from a config and prepared data to a run directory with a trained adapter or model."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from sft_cli.chat.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.config.rundir import RunDir
from sft_cli.config.schema import AdapterKind, Config
from sft_cli.console import say
from sft_cli.data.prepared import Prepared
from sft_cli.model.adapters import add_adapter, save_memory
from sft_cli.model.attention import probe, use_packed
from sft_cli.model.head import LossModel
from sft_cli.model.load import load_model
from sft_cli.model.machine import Machine, choose_machine
from sft_cli.train import checkpoint, preflight
from sft_cli.train.checkpoint import Parts, Progress
from sft_cli.train.environment import environment
from sft_cli.train.export import export, write_probes
from sft_cli.train.loop import Run, Stopped, fit
from sft_cli.train.optimizer import make_optimizer, make_schedule
from sft_cli.train.run import write_config
from sft_cli.train.schedule import plan
from sft_cli.train.watch import Watch

NOT_LEARNING = (
    "run_name",
    "run_dir",
    "prepared_dir",
    "eval.",
    "launcher.",
    "trainer.tokens_per_micro_batch",
    "trainer.logits_chunk",
    "trainer.gradient_checkpointing",
    "trainer.device",
    "trainer.eval_every",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.patience",
)
"""Keys that decide where and when, not what is learned: they may change on resuming."""
MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def train(config: Config, prepared: Prepared, directory: RunDir) -> None:
    """Train, export, and print what came out.

    Raises:
        SftError: The preflight or a checkpoint refuses.
        SystemExit: A signal stopped the run; it is saved.
    """
    started = time.perf_counter()
    machine = choose_machine(config.trainer)
    preflight.check(config, prepared, machine, directory.path)
    _open_directory(directory, config, prepared, machine)
    set_seed(config.trainer.seed)
    tokenizer = load_tokenizer(str(prepared.tokenizer_directory))
    stop_ids = stop_token_ids(tokenizer, prepared.manifest)
    accelerator = Accelerator(cpu=machine.device.type == "cpu", mixed_precision=MIXED[machine.dtype])
    loss_model = _build_model(config, machine, stop_ids, accelerator)
    watch = Watch(config, prepared.validation, loss_model, accelerator, tokenizer, stop_ids)
    run, parts = _assemble(config, prepared, directory, loss_model, accelerator, watch)
    progress = _resume(run, parts)
    before = watch.base(directory) if config.eval.compare_after_training else None
    try:
        progress = fit(run, parts, progress)
    except Stopped as stopped:
        say(f"stopped   behind step {stopped.step}, saved; resume with: sft train run={directory.path}")
        sys.exit(128 + stopped.signal)
    if config.trainer.keep_best and progress.best_step not in (None, progress.step):
        say(f"best      step {progress.best_step} (held-out loss {progress.best_loss:.4f}); its weights are exported")
        checkpoint.restore_trained(directory.checkpoints / f"step-{progress.best_step}", parts.model)
    result = export(loss_model.model, directory, prepared, stop_ids)
    if before is not None:
        watch.compare(before)
    say(f"finished  {progress.step} steps in {time.perf_counter() - started:.0f} s: {result}")
    say(f"next      sft eval run={directory.path} compare=base")
    if config.adapter.kind is AdapterKind.lora:
        say(f"          sft merge run={directory.path} out={directory.path}/merged")


def stop_token_ids(tokenizer: ChatTokenizer, manifest: Mapping[str, Any]) -> list[int]:
    """Ids of the tokens that end an answer; the end-of-text token where the data has no answers."""
    names = manifest["stop_tokens"] or [tokenizer.special_tokens.get("eos_token", "")]
    return sorted(tokenizer.control[name] for name in names if name in tokenizer.control)


def identity(config: Config, fingerprint: str) -> dict[str, Any]:
    """What a checkpoint must agree with: the data and every key that decides what is learned."""
    return {"data": fingerprint, **{k: v for k, v in _flat(asdict(config)).items() if not k.startswith(NOT_LEARNING)}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _open_directory(directory: RunDir, config: Config, prepared: Prepared, machine: Machine) -> None:
    """Make the run directory and write what is known before training."""
    write_config(directory, config)
    say(f"run       {directory.path}")
    values = environment(machine.device, machine.dtype)
    directory.environment.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    data = {"prepared_dir": str(prepared.directory.resolve()), "fingerprint": prepared.manifest["fingerprint"]}
    directory.data.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    write_probes(directory, prepared)


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
        probed = probe(model)
        if probed.packed_ok:
            use_packed(model)
            say(f"packing   proven: packed and solo logits agree ({probed.difference:.1e})")
        else:
            say(f"packing   off, one example per row: {probed.reason}")
        return LossModel(model, packed=probed.packed_ok, chunk=config.trainer.logits_chunk)


def _assemble(
    config: Config, prepared: Prepared, directory: RunDir, loss_model: LossModel, accelerator: Accelerator, watch: Watch
) -> tuple[Run, Parts]:
    """What the loop reads and what it changes."""
    trainer = config.trainer
    steps = plan(len(prepared.train), trainer.examples_per_step, trainer.epochs, trainer.max_steps, trainer.seed)
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
        identity=identity(config, prepared.manifest["fingerprint"]),
        evaluate=watch.evaluate if len(prepared.validation) else None,
    )
    return run, Parts(wrapped, optimizer, schedule, accelerator.scaler)


def _resume(run: Run, parts: Parts) -> Progress:
    """Restore the newest whole checkpoint, if there is one."""
    last = checkpoint.newest(run.directory.checkpoints)
    if last is None:
        return Progress()
    progress = checkpoint.load(last, parts, run.identity)
    say(f"resume    behind step {progress.step} of {run.plan.num_steps} ({last})")
    return progress
