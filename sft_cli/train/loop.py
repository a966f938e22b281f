"""The training loop: steps, evaluations, checkpoints, signals. Nothing else changes the state of a run."""

import json
import signal
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from sft_cli.batching.step_plan import StepPlan
from sft_cli.config.schema.tracking import NotifyEvent
from sft_cli.console import say
from sft_cli.train.checkpoints import checkpoint, checkpoint_dir
from sft_cli.train.checkpoints.checkpoint import TrainProgress, TrainState
from sft_cli.train.context import TrainContext
from sft_cli.train.monitoring import divergence
from sft_cli.train.monitoring.best import describe_evaluation, is_better
from sft_cli.train.monitoring.divergence import RecentSteps
from sft_cli.train.monitoring.metrics import MetricsLog, NullLog, StepMetrics, truncate_after
from sft_cli.train.monitoring.retention import RetentionFailed
from sft_cli.train.monitoring.trackers import open_trackers
from sft_cli.train.oom_advice import OomPhase, translate_oom
from sft_cli.train.optimizers.weight_average import averaged_weights
from sft_cli.train.run_end import StopRequest, clear_request, requested_stop
from sft_cli.train.signals import collect_signals
from sft_cli.train.step import train_step
from sft_cli.utils.mappings import nan_to_none
from sft_cli.utils.processes import FINISH_SIGNAL
from sft_cli.utils.text import excerpt

LOGGED_CHARACTERS = 50
"""Largest number of characters of a prompt or an answer in the log line of an evaluation."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What the processes of a run were asked to do, and the signal that asked for it; 0 for none or ``sft stop``."""

    request: StopRequest
    signal: int


class TrainingInterrupted(Exception):
    """A signal, or ``sft stop``, stopped the run after a saved step.

    Attributes:
        signal: The number of the signal; SIGINT for ``sft stop``.
        step: Optimizer steps done and saved.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by signal {number} after step {step}")
        self.signal, self.step = number, step


def train_loop(context: TrainContext, state: TrainState, progress: TrainProgress) -> TrainProgress:
    """Train from ``progress`` to the end of the plan, or until a request to finish, and return the final progress.

    Raises:
        TrainingInterrupted: SIGTERM, SIGINT, SIGUSR1 or ``sft stop`` came; the current step was finished and saved.
        RetentionFailed: A retention probe fell below its limit; the step was saved.
        SftError: Training diverged, or memory ran out.
    """
    directory, plan, trainer, is_main = context.directory, context.plan, context.config.trainer, context.world.is_main
    recent = divergence.read_recent_steps(directory.metrics, progress.step, scaled=context.has_loss_scale)
    if is_main:
        truncate_after(directory.samples, progress.step)
        truncate_after(directory.spikes, progress.step)
    log: MetricsLog | NullLog = NullLog()
    if is_main:
        trackers = open_trackers(context.config, directory, progress.step)
        log = MetricsLog(directory.metrics, plan.num_steps, progress.step, trackers)
    with closing(log), collect_signals() as signals, context.prefetch(progress.step) as prefetcher:
        while progress.step < plan.num_steps and not progress.is_out_of_patience(trainer):
            rows = partial(context.step_rows, progress.step)
            with translate_oom(context.config, OomPhase.training, f"step {progress.step + 1}", rows):
                metrics = train_step(context, state, progress.step, prefetcher)
            log.step(metrics)
            recent = _check_divergence(context, metrics, recent, log)
            progress = replace(progress, step=metrics.step)
            progress, stop = _evaluate_and_save(context, state, progress, log, signals)
            if stop.request is StopRequest.finish:
                return progress
            if stop.request is StopRequest.save:  # one that comes after the save is handled after the next step
                raise TrainingInterrupted(stop.signal or signal.SIGINT, progress.step)
    if progress.is_out_of_patience(trainer):
        figure = "held-out loss" if context.best is None else "value of trainer.best"
        say(f"stopped early: no better {figure} for {progress.without_improvement} evaluations")
    return progress


def _check_divergence(
    context: TrainContext, metrics: StepMetrics, recent: RecentSteps, log: MetricsLog | NullLog
) -> RecentSteps:
    """Record a step whose loss spikes or is not finite, and return the recent steps with this one.

    Raises:
        SftError: Training diverged.
    """
    trainer, directory, scaled = context.config.trainer, context.directory, context.has_loss_scale
    rows = partial(context.step_rows, metrics.step - 1)
    spike = divergence.detect_spike(metrics, recent, trainer, scaled=scaled, rows=rows)
    recent = recent.append(metrics.loss, metrics.grad_norm, scaled=scaled)
    if spike is None:
        return recent
    if context.world.is_main:
        spike.write(directory.spikes)
    check = partial(divergence.raise_if_diverged, spike, trainer.on_nan, recent.nonfinite_in_a_row, directory)
    context.world.run_collectively(check)
    log.say(spike.describe())
    context.notifier.send(
        NotifyEvent.spike, spike.describe(), {"step": metrics.step, "loss": nan_to_none(metrics.loss)}
    )
    return recent


def _evaluate_and_save(
    context: TrainContext, state: TrainState, progress: TrainProgress, log: MetricsLog | NullLog, signals: list[int]
) -> tuple[TrainProgress, Stop]:
    """Evaluate, and save a checkpoint, if they are due after this step.

    A signal that any process has received, also during the evaluation, makes all processes save and stop. A request to
    finish makes this step the last one, which is evaluated and saved like that of a whole plan.

    Returns:
        The progress, and whether and why the run stops.
    """
    trainer, plan, step = context.config.trainer, context.plan, progress.step
    every = trainer.retention.every or trainer.eval_every
    due = _Due(_is_due(trainer.eval_every, plan, step), _is_due(every, plan, step))
    progress, improved, failed = _measure(context, state, progress, log, due)
    stop = _find_stop(context, signals)
    if stop.request is StopRequest.finish:
        rest = _Due(not due.evaluation, not due.retention)
        progress, improved_now, failed_now = _measure(context, state, progress, log, rest)
        improved, failed = improved or improved_now, failed or failed_now
    if stop.request or improved or failed or _is_due(trainer.save_every, plan, step):
        root = context.directory.checkpoints
        checkpoint.save_checkpoint(root, progress, state, context.fingerprint, context.world)
        if context.world.is_main:
            keep_steps = (progress.best_step, progress.step)
            checkpoint_dir.prune_checkpoints(root, keep_steps, trainer.keep_checkpoints)
            if stop.request:
                clear_request(context.directory)
    if failed and context.retention is not None:
        raise RetentionFailed(context.retention.failure)
    return progress, stop


@dataclass(frozen=True, slots=True)
class _Due:
    """Which measurements are due after a step."""

    evaluation: bool
    retention: bool


def _measure(
    context: TrainContext, state: TrainState, progress: TrainProgress, log: MetricsLog | NullLog, due: _Due
) -> tuple[TrainProgress, bool, bool]:
    """Take the measurements that are due, if the run has held-out rows or probes for them.

    Returns:
        The progress, whether the evaluation is the best so far, and whether a probe is below its limit.
    """
    improved, failed = False, False
    evaluating, probing = due.evaluation and context.evaluate is not None, due.retention and context.retention
    with averaged_weights(state.average, state.model) if evaluating or probing else nullcontext():
        if evaluating:
            progress, improved = _evaluate(context, progress, log)
        if probing and context.retention is not None:
            check = partial(context.retention.check, progress.step, log.retention)
            failed = not context.parallel.run_inference(check)
    return progress, improved, failed


def _find_stop(context: TrainContext, signals: list[int]) -> Stop:
    """Return what any process was asked to do: by its first signal, or by ``sft stop``, which the main one reads."""
    request = requested_stop(context.directory) if context.world.is_main else StopRequest.none
    first = next((number for number in signals if number != FINISH_SIGNAL), 0)
    if first:
        request = max(request, StopRequest.save)
    if FINISH_SIGNAL in signals:
        request = StopRequest.finish
    request, first = context.world.all_reduce_max([request, first])
    return Stop(StopRequest(request), first)


def _evaluate(context: TrainContext, progress: TrainProgress, log: MetricsLog | NullLog) -> tuple[TrainProgress, bool]:
    """Evaluate the held-out rows and the suites, and record the result.

    Returns:
        The progress, and whether this evaluation is the best so far.
    """
    assert context.evaluate is not None
    result = context.parallel.run_inference(partial(context.evaluate, progress.step))
    log.evaluation(progress.step, round(progress.step / context.plan.steps_per_epoch, 4), result.values)
    improved = is_better(result.loss, result.score, progress.best_loss, progress.best_score, context.best)
    mark = " (best so far)" if improved and progress.best_step is not None else ""
    log.say_evaluation(f"eval      step {progress.step}: {describe_evaluation(result.values, context.best)}{mark}")
    for sample in result.samples[:1]:
        prompt = excerpt(sample["prompt"], LOGGED_CHARACTERS, tail=True)
        log.say_sample(f"sample    {prompt} -> {excerpt(sample['answer'], LOGGED_CHARACTERS)}")
    if context.world.is_main:
        with context.directory.samples.open("a", encoding="utf-8") as file:
            for sample in result.samples:
                file.write(json.dumps({"step": progress.step, **sample}, ensure_ascii=False) + "\n")
    if improved:
        best = {"best_step": progress.step, "best_loss": result.loss, "best_score": result.score}
        return replace(progress, **best, without_improvement=0), True
    return replace(progress, without_improvement=progress.without_improvement + 1), False


def _is_due(every: int | None, plan: StepPlan, step: int) -> bool:
    """Return whether an action is due at ``step``: every ``every`` steps (None: every epoch) and at the end."""
    return step == plan.num_steps or (plan.is_epoch_end(step - 1) if every is None else step % every == 0)
