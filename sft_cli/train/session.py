"""One training session: from a config and prepared data to a run directory with a trained adapter or model."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from sft_cli.batching.prefetch import replayed_sources
from sft_cli.batching.step_plan import plan_run
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.automatic import resolve_auto
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import NotifyEvent
from sft_cli.console import counted, say
from sft_cli.data.prepared import PreparedData
from sft_cli.distributed.process_group import current_world, init_process_group
from sft_cli.merge.card import write_card
from sft_cli.model.adapter.warm_start import frozen_adapters
from sft_cli.model.device import ComputeSetup, choose_compute_setup, choose_device
from sft_cli.model.head.kl_reference import KLReference
from sft_cli.model.load import load_model_config
from sft_cli.model.memory.checkpointing import CheckpointingPlan
from sft_cli.prepare.prepare import prepare_data
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint, checkpoint_dir
from sft_cli.train.checkpoints.checkpoint import TrainProgress, TrainState
from sft_cli.train.checkpoints.export import export_model
from sft_cli.train.checkpoints.resume_check import check_same_data, run_fingerprint
from sft_cli.train.checkpoints.resume_point import check_run_length, find_resume_point
from sft_cli.train.context import TrainContext
from sft_cli.train.loop import TrainingInterrupted, train_loop
from sft_cli.train.monitoring.best import TrainingSuites, describe_best, load_training_suites
from sft_cli.train.monitoring.evaluator import HeldOutEvaluator, make_base_reference
from sft_cli.train.monitoring.notify import Notifier
from sft_cli.train.monitoring.retention import EXIT_CODE, RetentionFailed, RetentionGuard, stop_message
from sft_cli.train.monitoring.retention_probes import RetentionProbe, prepare_probes
from sft_cli.train.monitoring.suite_evaluator import SuiteEvaluator
from sft_cli.train.next_commands import next_commands, print_next_commands, print_stopped
from sft_cli.train.oom_advice import OomPhase, translate_oom
from sft_cli.train.optimizers.lr_schedule import make_lr_schedule
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.optimizers.weight_average import make_weight_average
from sft_cli.train.parallel import gathered_weights
from sft_cli.train.run_end import write_end
from sft_cli.train.run_list import RunState
from sft_cli.train.run_report.page import try_write_run_report
from sft_cli.train.setup import preflight
from sft_cli.train.setup.build import FirstEpochRows, build_training_model, make_accelerator
from sft_cli.train.setup.environment import describe_run, prepare_machine, translate_missing_determinism
from sft_cli.train.setup.run_directory import locked_run_dir
from sft_cli.train.setup.run_warnings import describe_plan, find_run_warnings, num_steps


def run_session(config: Config, prepared: PreparedData, directory: RunDir, *, resumed: bool) -> None:
    """Train, export, and print the result; every process of the run calls it.

    Raises:
        SftError: The preflight or a checkpoint check fails, or training diverges.
        SystemExit: A signal or the guard against forgetting stopped the run; it can be resumed.
    """
    with (
        translate_missing_determinism(),
        open_session(config, prepared, directory, resumed=resumed) as session,
        session.notifier.report_failure(),
    ):
        session.build()
        session.measure_base()
        progress = session.train(session.restore())
        result = session.export(progress)
        session.compare()
        session.print_summary(progress, result)


def run_distributed_session(config: Config, directory: RunDir, *, resumed: bool) -> None:
    """Call ``run_session`` in one of several processes; rank 0 prepares the data first."""
    cuda = choose_device(config.trainer.device).type == "cuda"
    with init_process_group(config.distributed.timeout_minutes, cuda=cuda) as world:
        prepared = world.run_main_first(partial(prepare_data, config))
        run_session(config, prepared, RunDir(world.broadcast_object(directory.path)), resumed=resumed)


@contextmanager
def open_session(
    config: Config, prepared: PreparedData, directory: RunDir, *, resumed: bool
) -> Iterator["TrainingSession"]:
    """Check everything that needs no weights, lock the run directory, write a description of the run, and open it."""
    world, examples = current_world(), sum(len(stage.entries) for stage in prepared.stages)
    composed, config = config, resolve_auto(config, examples)
    say(f"plan      {describe_plan(composed, config, examples)}")
    architecture = load_model_config(config.model)
    machine = choose_compute_setup(config.trainer, architecture, full=config.adapter.kind in WHOLE)
    prepare_machine(config, directory, architecture, machine)
    for warning in find_run_warnings(config, prepared, examples=examples, held_out=len(prepared.validation) > 0):
        say(f"warning: {warning.text}; {warning.fix}")
    suites = world.run_main_first(partial(load_training_suites, config))
    check = partial(preflight.run_preflight, config, prepared, machine, directory.path, world.size)
    memory = world.broadcast_object(world.run_collectively(check))
    config = memory.micro_batch.resolve(config)
    probes = world.run_main_first(partial(prepare_probes, config, prepared.tokenizer_directory))
    world.run_collectively(partial(check_same_data, directory, prepared))
    if resumed:
        world.run_collectively(partial(check_run_length, directory, config, num_steps(config, examples)))
    with ExitStack() as stack:  # only rank 0 enters the lock, which creates or opens the directory
        lock = locked_run_dir(directory, config, resumed=resumed)
        directory = world.run_on_main(partial(stack.enter_context, lock))
        session = TrainingSession(config, prepared, directory, machine, memory.recompute, probes, suites)
        world.run_on_main(partial(describe_run, directory, prepared, machine, memory.estimate))
        yield session


class TrainingSession:
    """The phases of a session that need the model, in the order of ``run_session``.

    Attributes:
        notifier: Sends messages about the run.
        context: The inputs of the training loop; set by ``build``.
        state: The state that the training loop changes; set by ``build``.
    """

    context: TrainContext
    state: TrainState

    def __init__(
        self,
        config: Config,
        prepared: PreparedData,
        directory: RunDir,
        machine: ComputeSetup,
        recompute: CheckpointingPlan,
        probes: Sequence[RetentionProbe],
        suites: TrainingSuites,
    ) -> None:
        self._config, self._prepared, self._directory = config, prepared, directory
        self._machine, self._recompute, self._probes, self._suites = machine, recompute, probes, suites
        self._started, self._world = time.perf_counter(), current_world()
        self._model_path = f"model.path={config.model.path}"
        self._base: KLReference | None = None
        self._base_scores: dict[str, Any] | None = None
        self._checkpoint: Path | None = None
        self.notifier = Notifier(config, directory, active=self._world.is_main)

    def build(self) -> None:
        """Load the model, make the optimizer and the schedule, and find the checkpoint to resume from."""
        set_seed(self._config.trainer.seed)
        with translate_oom(self._config, OomPhase.loading, self._model_path):
            self._build_context()

    def _build_context(self) -> None:
        """Set ``context`` and ``state``."""
        config, trainer, prepared, world = self._config, self._config.trainer, self._prepared, self._world
        tokenizer = load_tokenizer(str(self._directory.tokenizer))
        self._stop_ids = [tokenizer.control_tokens[name] for name in prepared.manifest["stop_tokens"]]
        plan = plan_run(prepared, trainer)
        accelerator, rows = make_accelerator(self._machine), FirstEpochRows(prepared.train, plan)
        built = build_training_model(
            config, self._machine, tokenizer, self._stop_ids, rows, self._recompute, accelerator, world
        )
        model = built.loss_model
        if not world.is_main:
            set_seed(trainer.seed + world.rank)  # other examples get other dropout noise
        asking = SuiteEvaluator(config, self._directory, self._suites, model, self._stop_ids, built.parallel)
        self._evaluator = HeldOutEvaluator(
            config, prepared.validation, model, accelerator, tokenizer, self._stop_ids, asking
        )
        guard = None
        if self._probes:
            guard = RetentionGuard(config, self._directory, model, accelerator, tokenizer, self._stop_ids, self._probes)
        optimizer = make_optimizer(model, trainer, config.adapter)
        find = partial(find_resume_point, self._directory.checkpoints, trainer, plan.num_steps)
        self._checkpoint, length = world.run_on_main(find)
        lr_schedule = make_lr_schedule(optimizer, trainer, length)
        # evaluation_mode: accelerate adds autocast, but no wrapper for several processes; ParallelModel does that.
        wrapped = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
        average = make_weight_average(trainer)
        self.state = TrainState(wrapped, optimizer, lr_schedule, accelerator.scaler, average, length)
        self.context = TrainContext(
            directory=self._directory,
            config=config,
            train=prepared.train,
            plan=plan,
            model=model,
            accelerator=accelerator,
            fingerprint=run_fingerprint(config, prepared.manifest["content"], str(self._machine.dtype)),
            recompute=built.recompute,
            notifier=self.notifier,
            evaluate=self._evaluator.evaluate if len(prepared.validation) or self._suites.suites else None,
            best=self._suites.best,
            retention=guard,
            share_prefixes=built.share_prefixes,
            pair_cost=built.pair_cost,
            parallel=built.parallel,
            replay_sources=replayed_sources(config.data.mix),
        )

    def measure_base(self) -> None:
        """Evaluate the model that training begins with, if its scores are needed and cannot be computed afterwards.

        Call it before ``restore``, which replaces the untrained weights.
        """
        context, has_begun = self.context, self._checkpoint is not None
        self._base = make_base_reference(self._config, context)
        with translate_oom(self._config, OomPhase.evaluation, self._model_path):
            if self._base is None:
                measure = partial(self._evaluator.score_base_before_training, self._directory, resumed=has_begun)
                self._base_scores = context.parallel.run_inference(measure)
            if context.retention is not None:
                context.parallel.run_inference(context.retention.measure_base)

    def restore(self) -> TrainProgress:
        """Load the newest valid checkpoint, if there is one, and remove newer ones, which are damaged."""
        if self._checkpoint is None:
            return TrainProgress().ranked_by(self.context.best_by)
        context, root = self.context, self._directory.checkpoints
        load = partial(checkpoint.load_checkpoint, self._checkpoint, self.state, context.fingerprint, self._world.rank)
        progress = self._world.run_collectively(load)
        self._world.run_on_main(partial(checkpoint_dir.remove_after, root, progress.step))
        say(f"resume    after step {progress.step} of {context.plan.num_steps} ({self._checkpoint})")
        return progress.ranked_by(context.best_by)

    def train(self, progress: TrainProgress) -> TrainProgress:
        """Run the training loop and return its final progress.

        Raises:
            SystemExit: A signal or the guard against forgetting stopped the run after a saved step.
        """
        context, run = self.context, shlex.quote(str(self._directory.path))
        try:
            if context.retention is not None:
                context.retention.check_saved_step(progress.step)
            with translate_oom(self._config, OomPhase.evaluation, "held-out rows"):
                return train_loop(context, self.state, progress)
        except TrainingInterrupted as interruption:
            self._world.barrier()
            self._write_report("interrupted")
            print_stopped(self._directory, interruption.step)
            self.notifier.send(NotifyEvent.stopped, f"stopped by a signal after step {interruption.step}, saved")
            sys.exit(128 + interruption.signal)
        except RetentionFailed as failure:
            newest = checkpoint_dir.list_checkpoints(self._directory.checkpoints)[-1]
            self._world.barrier()
            self._write_report("interrupted")
            say(stop_message(run, checkpoint_dir.checkpoint_step(newest), str(failure)))
            self.notifier.send(NotifyEvent.guard, str(failure))
            sys.exit(EXIT_CODE)

    def export(self, progress: TrainProgress) -> Path:
        """Write the weights of the best step (``trainer.keep_best``), the average or the last; return the directory."""
        context, state, trainer = self.context, self.state, self._config.trainer
        end = progress.end(trainer, context.plan.num_steps)
        if (step := end.exported_step) != progress.step:
            figure = describe_best(context.best, progress.best_loss, progress.best_score)
            say(f"best      step {step} ({figure}); its weights are exported")
            checkpoint.load_trained_weights(self._directory.checkpoints / f"step-{step}", state.model)
        elif state.average is not None:
            say("average   the averaged weights are exported, not the last ones")
            state.average.copy_to(state.model)
        model = context.model.model
        frozen = frozen_adapters(self._config.adapter)
        write = partial(export_model, model, self._directory, self._stop_ids, self._config.model, frozen)
        with gathered_weights(model, context.parallel):
            result = self._world.run_on_main(write)
        self._world.run_on_main(partial(write_end, self._directory, end))
        self._world.run_on_main(partial(write_card, self._directory, self._config, result))
        return result

    def compare(self) -> None:
        """Print the scores of the base and of the trained model, if ``eval.compare_after_training`` is set."""
        compare = partial(self._evaluator.compare_with_base, self._directory, self._base, self._base_scores)
        with translate_oom(self._config, OomPhase.evaluation, self._model_path):
            self.context.parallel.run_inference(compare)

    def print_summary(self, progress: TrainProgress, result: Path) -> None:
        """Print the duration, the result, and the commands to run next."""
        seconds, held_out = time.perf_counter() - self._started, len(self._prepared.validation) > 0
        planned = f" of {total:,} (early)" if progress.step < (total := self.context.plan.num_steps) else ""
        finished = f"{counted(progress.step, 'step')}{planned} in {seconds:.0f} s"
        say(f"finished  {finished}: {result}")
        self.notifier.send(NotifyEvent.finished, f"finished {finished}", {"step": progress.step})
        if (warning := self._evaluator.failure_warning()) is not None:
            say(f"warning: {warning}")
        self._write_report("finished" if progress.step == total else "finished early")
        print_next_commands(next_commands(self._config, self._directory, held_out=held_out))

    def _write_report(self, state: RunState) -> None:
        """Write the page of the run, in the main process only."""
        if self._world.is_main:
            try_write_run_report(self._directory, state)
