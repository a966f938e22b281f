"""The training loop: steps, evaluations, checkpoints, signals. The only place that changes state."""

import json
import math
import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sft_cli.batching.prefetch import Feed, LaidStep
from sft_cli.batching.step_plan import Plan
from sft_cli.config.schema.trainer import OnNan
from sft_cli.console import say
from sft_cli.train.checkpoints import checkpoint, checkpoint_dir
from sft_cli.train.checkpoints.checkpoint import Parts, Progress
from sft_cli.train.context import Run
from sft_cli.train.monitoring import divergence
from sft_cli.train.monitoring.divergence import Recent, usable
from sft_cli.train.monitoring.metrics import Log, NoLog, StepMetrics, keep_until, peak_memory
from sft_cli.train.monitoring.retention import Forgotten
from sft_cli.train.oom_advice import Work, told
from sft_cli.train.optimizers.weight_average import averaged
from sft_cli.train.signals import caught_signals


class Stopped(Exception):
    """A signal asked the run to stop; it did so behind a saved step.

    Attributes:
        signal: The signal's number.
        step: Optimizer steps done and saved.
    """

    def __init__(self, signal: int, step: int) -> None:
        super().__init__(f"stopped by signal {signal} after step {step}")
        self.signal, self.step = signal, step


def fit(run: Run, parts: Parts, progress: Progress) -> Progress:
    """Train from ``progress`` to the end of the plan; where the run stands then.

    Raises:
        Stopped: SIGTERM, SIGINT or SIGUSR1 came; the step in progress was finished and saved.
        Forgotten: A retention probe got worse than it may; the step was saved.
        SftError: Training diverged, or memory ran out.
    """
    recent = divergence.recent(run.directory.metrics, progress.step, scaled=run.scaled)
    if run.ranks.first:
        keep_until(run.directory.samples, progress.step)
        keep_until(run.directory.spikes, progress.step)
    log = Log(run.directory.metrics, run.plan.num_steps, progress.step) if run.ranks.first else NoLog()
    with closing(log), caught_signals() as caught, run.feed(progress.step) as feed:
        while progress.step < run.plan.num_steps and not _out_of_patience(run, progress):
            rows = partial(run.rows, progress.step)
            with told(run.config, Work.training, f"step {progress.step + 1}", rows):
                metrics = take_step(run, parts, progress.step, feed)
            log.step(metrics)
            recent = _judged(run, metrics, recent, log)
            progress, stop = _evaluate_and_save(run, parts, replace(progress, step=metrics.step), log, caught)
            if stop:  # a signal behind the save waits for the next step
                raise Stopped(stop, progress.step)
    if _out_of_patience(run, progress):
        say(f"stopped early: no better held-out loss for {progress.without_improvement} evaluations")
    return progress


def _judged(run: Run, metrics: StepMetrics, recent: Recent, log: Log | NoLog) -> Recent:
    """Record a step whose loss leapt or that is not finite; what is known of the last steps behind it.

    Raises:
        SftError: Training diverged.
    """
    trainer, behind = run.config.trainer, recent.behind(metrics.loss, metrics.grad_norm, scaled=run.scaled)
    rows = partial(run.rows, metrics.step - 1)
    spike = divergence.spike_of(metrics, recent, trainer, scaled=run.scaled, rows=rows)
    if spike is None:
        return behind
    if run.ranks.first:
        spike.write(run.directory.spikes)
    run.ranks.together(partial(divergence.refuse_divergence, spike, trainer.on_nan, behind.unusable, run.directory))
    log.say(spike.sentence())
    return behind


def take_step(run: Run, parts: Parts, step: int, feed: Feed) -> StepMetrics:
    """Compute and apply optimizer step ``step`` (from 0)."""
    started = time.perf_counter()
    laid = feed.take(step)
    terms = run.relief.gradient(parts.model, run.accelerator, laid, run.engine)
    norm = run.engine.clip(run.accelerator, parts.model, run.config.trainer.max_grad_norm or float("inf"))
    lr = float(parts.schedule.get_last_lr()[0])
    if _counts(run, terms["loss"], norm):
        parts.optimizer.step()
        if parts.average is not None:
            parts.average.update(parts.model)
    else:  # torch takes a skipped first step for two calls in the wrong order
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
    parts.schedule.step()
    parts.optimizer.zero_grad()
    # The one place of a step that waits for the device.
    grad_norm, *values = torch.stack([norm.float(), *terms.values()]).tolist()
    return _metrics(run, step, laid, dict(zip(terms, values, strict=True)), grad_norm, lr, started)


def _counts(run: Run, loss: Tensor, norm: Tensor) -> bool:
    """Whether a step changes anything; only where steps may be skipped this is asked before, and waits for the device.

    A loss scale (float16) leaves out by itself what is not finite.
    """
    return run.config.trainer.on_nan is OnNan.stop or run.scaled or usable(float(loss), float(norm), scaled=False)


def _metrics(
    run: Run, step: int, laid: LaidStep, terms: dict[str, float], grad_norm: float, lr: float, started: float
) -> StepMetrics:
    """What is recorded of a step that began at ``started``."""
    seconds = time.perf_counter() - started
    return StepMetrics(
        step=step + 1,
        epoch=round((step + 1) / run.plan.steps_per_epoch, 4),
        loss=terms.pop("loss"),
        terms=terms,
        lr=lr,
        grad_norm=grad_norm,
        examples=laid.examples,
        tokens=laid.tokens,
        computed_tokens=laid.computed_tokens,
        trained_tokens=laid.trained_tokens,
        seconds=round(seconds, 4),
        tokens_per_second=round(laid.tokens / seconds, 1),
        memory=peak_memory(run.accelerator.device),
        at=round(time.time(), 3),
    )


def _evaluate_and_save(
    run: Run, parts: Parts, progress: Progress, log: Log | NoLog, caught: list[int]
) -> tuple[Progress, int]:
    """Evaluate and save where the step calls for it; the signal behind which the run stops, or 0.

    A signal, even one that comes meanwhile and to one process only, asks all to save and stop.
    """
    better, forgotten, trainer = False, False, run.config.trainer
    due = _due(trainer.eval_every, run.plan, progress.step)
    probed = run.retention is not None and _due(trainer.retention.every or trainer.eval_every, run.plan, progress.step)
    with averaged(parts.average, parts.model) if due or probed else nullcontext():
        if run.evaluate is not None and due:
            progress, better = _evaluate(run, progress, log)
        if run.retention is not None and probed:
            forgotten = not run.engine.look(partial(run.retention.check, progress.step, log.retention))
    (stop,) = run.ranks.most(caught[:1] or [0])
    if stop or better or forgotten or _due(trainer.save_every, run.plan, progress.step):
        checkpoint.save(run.directory.checkpoints, progress, parts, run.identity, run.ranks)
        if run.ranks.first:
            spared = (progress.best_step, progress.step)
            checkpoint_dir.prune(run.directory.checkpoints, spared, trainer.keep_checkpoints)
    if forgotten and run.retention is not None:
        raise Forgotten(run.retention.verdict)
    return progress, stop


def _evaluate(run: Run, progress: Progress, log: Log | NoLog) -> tuple[Progress, bool]:
    """Evaluate, record it, and say whether it is the best one so far."""
    assert run.evaluate is not None
    found = run.engine.look(run.evaluate)
    log.evaluation(progress.step, round(progress.step / run.plan.steps_per_epoch, 4), found.values)
    better = math.isfinite(found.loss) and (progress.best_loss is None or found.loss < progress.best_loss)
    mark = " (best so far)" if better and progress.best_loss is not None else ""
    log.say(f"eval      step {progress.step}: held-out loss {found.loss:.4f}{mark}")
    if run.ranks.first:
        with run.directory.samples.open("a", encoding="utf-8") as file:
            for sample in found.samples:
                file.write(json.dumps({"step": progress.step, **sample}, ensure_ascii=False) + "\n")
    if better:
        return replace(progress, best_step=progress.step, best_loss=found.loss, without_improvement=0), True
    return replace(progress, without_improvement=progress.without_improvement + 1), False


def _due(every: int | None, plan: Plan, step: int) -> bool:
    """Whether something that happens every ``every`` steps (None: every epoch), and at the end, happens at ``step``."""
    return step == plan.num_steps or (plan.ends_epoch(step - 1) if every is None else step % every == 0)


def _out_of_patience(run: Run, progress: Progress) -> bool:
    """Whether the held-out loss has not improved for too many evaluations."""
    patience = run.config.trainer.patience
    return patience is not None and progress.without_improvement >= patience
