"""One training session: from a config and prepared data to a run directory with a trained adapter or model."""

import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PretrainedConfig

from sft_cli.batching.step_plan import plan
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.automatic import resolve_auto
from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, Init
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import Role
from sft_cli.config.schema.fields import resolved
from sft_cli.console import counted, keep_in, say
from sft_cli.data.prepared import Prepared
from sft_cli.distributed.process_group import here, joined
from sft_cli.errors import SftError
from sft_cli.model.adapter.warm_start import initial_adapters
from sft_cli.model.device import ComputeSetup, choose_compute_setup, choose_device
from sft_cli.model.load import load_model_config
from sft_cli.model.memory.checkpointing import CheckpointingPlan
from sft_cli.model.threads import choose_threads, set_num_threads
from sft_cli.prepare import input_diff
from sft_cli.prepare.prepare import prepare
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint, checkpoint_dir
from sft_cli.train.checkpoints.checkpoint import Parts, Progress
from sft_cli.train.checkpoints.export import export, write_probes
from sft_cli.train.checkpoints.resume_check import identity
from sft_cli.train.context import Run
from sft_cli.train.loop import Stopped, fit
from sft_cli.train.monitoring.compare_base import base_afterwards, base_before, compare
from sft_cli.train.monitoring.evaluator import Watch
from sft_cli.train.monitoring.retention import EXIT_CODE, Forgotten, Retention, stopped
from sft_cli.train.monitoring.retention_probes import Probe, prepare_probes
from sft_cli.train.oom_advice import Work, told
from sft_cli.train.optimizers.lr_schedule import make_schedule
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.optimizers.weight_average import make_average
from sft_cli.train.parallel import gathered
from sft_cli.train.setup import preflight
from sft_cli.train.setup.build import Rows, build_model
from sft_cli.train.setup.environment import environment
from sft_cli.train.setup.run_directory import claimed
from sft_cli.train.setup.run_warnings import concerns, plan_line
from sft_cli.utils.atomic import write_atomic

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def train(config: Config, prepared: Prepared, directory: RunDir, *, resumed: bool) -> None:
    """Train, export, and print what came out.

    Raises:
        SftError: The preflight or a checkpoint refuses, or the loss diverges.
        SystemExit: A signal or the guard against forgetting stopped the run; it can be resumed.
    """
    ranks, examples = here(), sum(len(stage.entries) for stage in prepared.stages)
    asked, config = config, resolve_auto(config, examples)
    say(f"plan      {plan_line(asked, config, examples)}")
    architecture = load_model_config(config.model)
    machine = choose_compute_setup(config.trainer, architecture, full=config.adapter.kind in WHOLE)
    if machine.device.type == "cpu":
        _use_threads(config, directory, architecture, machine)
    for one in concerns(config, prepared, examples=examples, held_out=len(prepared.validation) > 0):
        say(f"warning: {one.text}; {one.fix}")
    recompute = ranks.share(ranks.together(lambda: preflight.check(config, prepared, machine, directory.path)))
    probes = ranks.in_turn(lambda: prepare_probes(config, prepared.tokenizer_directory))
    ranks.together(lambda: _refuse_other_data(directory, prepared))
    with claimed_for_all(directory, config, resumed=resumed) as directory:
        ranks.by_first(lambda: _describe(directory, prepared, machine))
        _train(config, prepared, directory, machine, recompute, probes)


def train_with_others(config: Config, directory: RunDir, *, resumed: bool) -> None:
    """``train`` as one of several processes; the first one prepares the data while the others wait."""
    cuda = choose_device(config.trainer.device).type == "cuda"
    with joined(config.distributed.timeout_minutes, cuda=cuda) as ranks:
        prepared = ranks.in_turn(lambda: prepare(config))
        train(config, prepared, RunDir(ranks.share(directory.path)), resumed=resumed)


@contextmanager
def claimed_for_all(directory: RunDir, config: Config, *, resumed: bool) -> Iterator[RunDir]:
    """``claimed`` by the first of a run's processes, for all of them; where the run lies is its to say."""
    with ExitStack() as stack:
        claim = claimed(directory, config, resumed=resumed)
        yield here().by_first(lambda: stack.enter_context(claim))


def _use_threads(config: Config, directory: RunDir, architecture: PretrainedConfig, machine: ComputeSetup) -> None:
    """Compute with the threads that suit the model, a resumed run with those it began with."""
    file = directory.environment
    recorded = directory.read(file).get("threads") if file.is_file() else None
    threads = choose_threads(
        config.speed.threads,
        recorded,
        architecture,
        tokens=config.speed.tokens_per_micro_batch,
        dtype=machine.dtype,
    )
    set_num_threads(threads)
    kind = str(machine.dtype).removeprefix("torch.")
    say(f"machine   cpu, {kind} ({machine.reason or 'as asked for'}), {threads.sentence()}")


def _train(
    config: Config,
    prepared: Prepared,
    directory: RunDir,
    machine: ComputeSetup,
    recompute: CheckpointingPlan,
    probes: list[Probe],
) -> None:
    """Build, resume, fit, export, compare."""
    started = time.perf_counter()
    ranks = here()
    set_seed(config.trainer.seed)
    path = f"model.path={config.model.path}"
    with told(config, Work.loading, path):
        run, parts, watch = _assemble(config, prepared, directory, machine, recompute, probes)
    last = ranks.by_first(lambda: checkpoint_dir.newest(directory.checkpoints))
    base = base_afterwards(config, run)
    with told(config, Work.evaluation, path):
        before = None
        if base is None:
            before = run.engine.look(partial(base_before, config, directory, watch, begun=last is not None))
        if run.retention is not None:
            run.engine.look(run.retention.begin)
    progress = _fit(run, parts, _resume(run, parts, last))
    _put_best(run, parts, progress)
    adapters = initial_adapters(config.adapter).items()
    frozen = [path for key, path in adapters if key.startswith("adapter.frozen_adapters")]
    with gathered(run.model.model, run.engine):
        result = ranks.by_first(lambda: export(run.model.model, directory, watch.stop_ids, config.model, frozen))
    with told(config, Work.evaluation, path):
        run.engine.look(partial(compare, directory, watch, base, before))
    say(f"finished  {counted(progress.step, 'step')} in {time.perf_counter() - started:.0f} s: {result}")
    for number, line in enumerate(next_lines(config, directory, held_out=len(prepared.validation) > 0)):
        say(f"{'' if number else 'next':<9} {line}")


def next_lines(config: Config, directory: RunDir, *, held_out: bool) -> Iterator[str]:
    """The commands that make sense for this very run once it is finished."""
    shown = shlex.quote(str(directory.path))
    yield f"sft chat {shown}"
    if held_out:
        yield f"sft eval {shown} --compare base"
    if config.adapter.kind in MERGEABLE:
        # LoftQ's adapter makes up for the rounding of the 4-bit base, not of the original one.
        into = " --into dequantized" if config.adapter.init is Init.loftq else ""
        yield f"sft merge {shown} --out {shlex.quote(str(directory.path / 'merged'))}{into}"


def _fit(run: Run, parts: Parts, progress: Progress) -> Progress:
    """Train; leave with the signal's exit code, or the guard's, where one stopped the run behind a saved step."""
    shown = shlex.quote(str(run.directory.path))
    try:
        if run.retention is not None:
            run.retention.resume(progress.step)
        with told(run.config, Work.evaluation, "held-out rows"):
            return fit(run, parts, progress)
    except Stopped as caught:
        run.ranks.wait()
        say(f"stopped   after step {caught.step}, saved; resume with: sft train --resume {shown}")
        sys.exit(128 + caught.signal)
    except Forgotten as forgotten:
        step = checkpoint_dir.step_of(checkpoint_dir.all_of(run.directory.checkpoints)[-1])
        run.ranks.wait()
        say(stopped(shown, step, str(forgotten)))
        sys.exit(EXIT_CODE)


def _put_best(run: Run, parts: Parts, progress: Progress) -> None:
    """Put into the model what is exported: its best held-out weights if they are kept, else the average or the last."""
    if run.config.trainer.keep_best and progress.best_step not in (None, progress.step):
        say(f"best      step {progress.best_step} (held-out loss {progress.best_loss:.4f}); its weights are exported")
        checkpoint.restore_trained(run.directory.checkpoints / f"step-{progress.best_step}", parts.model)
    elif parts.average is not None:
        say("average   the averaged weights are exported, not the last ones")
        parts.average.put(parts.model)


def _refuse_other_data(directory: RunDir, prepared: Prepared) -> None:
    """Refuse to resume a run on other rows than it began with, before anything of it is written over."""
    if directory.data.is_file() and directory.read(directory.data)["content"] != prepared.manifest["content"]:
        inputs = directory.read(directory.manifest)["inputs"]
        raise SftError(
            where=str(directory.path),
            problem="the run began with other rows: "
            f"{', '.join(input_diff.names(inputs, prepared.manifest['inputs'])) or input_diff.CODE} changed since",
            fix="put back what changed and resume, or start a new run",
        )


def _describe(directory: RunDir, prepared: Prepared, machine: ComputeSetup) -> None:
    """Write what is known before training: versions, the data, and the tokenizer that will serve the model."""
    keep_in(directory.console)
    say(f"run       {directory.path}")
    if importlib.util.find_spec("tensorboard") is not None:
        say(f"          tensorboard --logdir {shlex.quote(str(directory.tensorboard))} shows the loss during training")
    values = environment(machine.device, machine.dtype)
    write_atomic(directory.environment, json.dumps(values, indent=2) + "\n")
    found = {key: prepared.manifest[key] for key in ("fingerprint", "content")}
    data = {"prepared_dir": str(prepared.directory.resolve()), **found}
    write_probes(directory, prepared)
    write_atomic(directory.data, json.dumps(data, indent=2) + "\n")


def _assemble(
    config: Config,
    prepared: Prepared,
    directory: RunDir,
    machine: ComputeSetup,
    recompute: CheckpointingPlan,
    probes: list[Probe],
) -> tuple[Run, Parts, Watch]:
    """What the loop reads, what it changes, and what evaluates it."""
    trainer = config.trainer
    tokenizer = load_tokenizer(str(directory.tokenizer))
    stops = [tokenizer.control_tokens[name] for name in prepared.manifest["stop_tokens"]]
    steps = plan(
        prepared.stages,
        resolved(trainer.examples_per_step),
        resolved(trainer.epochs),
        trainer.max_steps,
        trainer.seed,
        prepared.train.unrolled(),
    )
    accelerator = Accelerator(cpu=machine.device.type == "cpu", mixed_precision=MIXED[machine.dtype])
    ranks = here()
    built = build_model(config, machine, tokenizer, stops, Rows(prepared.train, steps), recompute, accelerator, ranks)
    loss_model = built.loss_model
    if not ranks.first:
        set_seed(trainer.seed + ranks.place.rank)  # dropout of other examples is other noise
    watch = Watch(config, prepared.validation, loss_model, accelerator, tokenizer, stops)
    optimizer = make_optimizer(loss_model, trainer, config.adapter)
    schedule = make_schedule(optimizer, trainer, steps.num_steps)
    # "Evaluation" keeps accelerate from wrapping it for several processes, which is the engine's; it adds autocast.
    wrapped = accelerator.prepare_model(loss_model, device_placement=False, evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
    run = Run(
        directory=directory,
        config=config,
        train=prepared.train,
        plan=steps,
        model=loss_model,
        accelerator=accelerator,
        identity=identity(config, prepared.manifest["content"], str(machine.dtype)),
        relief=built.relief,
        evaluate=watch.evaluate if len(prepared.validation) else None,
        retention=Retention(config, directory, loss_model, accelerator, tokenizer, stops, probes) if probes else None,
        share=built.share,
        pairs=built.pairs,
        engine=built.engine,
        replayed=frozenset(name for name, source in config.data.mix.items() if source.role is Role.replay),
    )
    return run, Parts(wrapped, optimizer, schedule, accelerator.scaler, make_average(trainer)), watch


def _resume(run: Run, parts: Parts, last: Path | None) -> Progress:
    """Restore a checkpoint; remove newer ones, which are broken."""
    if last is None:
        return Progress()
    progress = run.ranks.together(lambda: checkpoint.load(last, parts, run.identity, run.ranks.place.rank))
    run.ranks.by_first(lambda: checkpoint_dir.forget_after(run.directory.checkpoints, progress.step))
    say(f"resume    after step {progress.step} of {run.plan.num_steps} ({last})")
    return progress
