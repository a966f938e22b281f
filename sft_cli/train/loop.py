"""The training loop: steps, evaluations, checkpoints, signals. The only place that changes state."""

import json
import math
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from sft_cli.config.rundir import RunDir
from sft_cli.config.schema import Config
from sft_cli.config.trainer_schema import Choice
from sft_cli.console import say
from sft_cli.data.prepared import Split
from sft_cli.errors import SftError
from sft_cli.model.head.loss_model import LossModel
from sft_cli.ranks.group import Ranks
from sft_cli.train import checkpoint
from sft_cli.train.average import averaged
from sft_cli.train.checkpoint import Parts, Progress
from sft_cli.train.engine import Engine
from sft_cli.train.feed import Feed, LaidStep
from sft_cli.train.metrics import Log, NoLog, StepMetrics, keep_until, peak_memory
from sft_cli.train.placement import PAIRS
from sft_cli.train.retention import Forgotten, Retention
from sft_cli.train.schedule import Plan
from sft_cli.train.shortage import Work, told
from sft_cli.train.step import ALONE, Relief


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation during training found: held-out loss in nats, values for metrics.jsonl, sample answers."""

    loss: float
    values: Mapping[str, Any]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """Everything the loop reads.

    Attributes:
        directory: Where the run is written.
        config: Its settings.
        train: The training examples.
        plan: Which of them make each step.
        model: The model with its loss.
        accelerator: Owns devices and ranks.
        identity: What a checkpoint must agree with.
        relief: What is recomputed in the backward pass.
        evaluate: Evaluates the held-out rows; None when there are none.
        retention: The guard against forgetting; None when no probe is declared.
        share: Whether common beginnings of examples are computed once, as far as the model allows it.
        replayed: Names of the replayed sources.
        pairs: What a query seeing a key costs, see ``placement.pair_cost``.
        engine: How the processes of the run compute the model.
    """

    directory: RunDir
    config: Config
    train: Split
    plan: Plan
    model: LossModel
    accelerator: Accelerator
    identity: Mapping[str, Any]
    relief: Relief
    evaluate: Callable[[], Evaluation] | None = None
    retention: Retention | None = None
    share: Choice = Choice.never
    replayed: Collection[str] = field(default_factory=frozenset)
    pairs: float = PAIRS
    engine: Engine = ALONE

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""
        return self.engine.ranks

    def feed(self, first_step: int) -> Feed:
        """The batches from a step on."""
        trainer = self.config.trainer
        return Feed(
            self.train,
            self.plan.examples,
            first_step,
            self.plan.num_steps,
            reduction=self.config.loss.reduction,
            budget=trainer.tokens_per_micro_batch,
            packed=self.model.packed,
            share=self.share,
            replay=self.config.loss.replay,
            replayed=self.replayed,
            ranks=self.ranks.place.size,
            rank=self.ranks.place.rank,
            device=self.accelerator.device,
            pairs=self.pairs,
        )


class Stopped(Exception):
    """A signal asked the run to stop; it did so behind a saved step.

    Attributes:
        signal: The signal's number.
        step: Optimizer steps done and saved.
    """

    def __init__(self, signal: int, step: int) -> None:
        super().__init__(f"stopped by signal {signal} behind step {step}")
        self.signal, self.step = signal, step


def fit(run: Run, parts: Parts, progress: Progress) -> Progress:
    """Train from ``progress`` to the end of the plan; where the run stands then.

    Raises:
        Stopped: SIGTERM, SIGINT or SIGUSR1 came; the step in progress was finished and saved.
        Forgotten: A retention probe got worse than it may; the step was saved.
    """
    if run.ranks.first:
        keep_until(run.directory.samples, progress.step)
    log = Log(run.directory.metrics, run.plan.num_steps, progress.step) if run.ranks.first else NoLog()
    with closing(log), caught_signals() as caught, run.feed(progress.step) as feed:
        while progress.step < run.plan.num_steps and not _out_of_patience(run, progress):
            with told(run.config, Work.training, f"step {progress.step + 1}"):
                metrics = take_step(run, parts, progress.step, feed)
            log.step(metrics)
            _refuse_divergence(run, metrics)
            progress, stop = _evaluate_and_save(run, parts, replace(progress, step=metrics.step), log, caught)
            if stop:  # a signal behind the save waits for the next step
                raise Stopped(stop, progress.step)
    if _out_of_patience(run, progress):
        say(f"stopped early: no better held-out loss for {progress.without_improvement} evaluations")
    return progress


def _refuse_divergence(run: Run, metrics: StepMetrics) -> None:
    """Stop at a loss or gradient that is no number; float16 skips such a gradient by itself and goes on.

    Raises:
        SftError: Nothing that is computed after it means anything.
    """
    scaled = run.accelerator.scaler is not None
    if math.isfinite(metrics.loss) and (scaled or math.isfinite(metrics.grad_norm)):
        return
    raise SftError(
        where=f"step {metrics.step}",
        problem=f"training diverged: loss {metrics.loss}, gradient norm {metrics.grad_norm}",
        fix=f"start a new run with a smaller trainer.lr (it is {run.config.trainer.lr:g}) or a longer warm-up",
    )


def take_step(run: Run, parts: Parts, step: int, feed: Feed) -> StepMetrics:
    """Compute and apply optimizer step ``step`` (from 0)."""
    started = time.perf_counter()
    laid = feed.take(step)
    terms = run.relief.gradient(parts.model, run.accelerator, laid, run.engine)
    norm = run.engine.clip(run.accelerator, parts.model, run.config.trainer.max_grad_norm or float("inf"))
    lr = float(parts.schedule.get_last_lr()[0])
    parts.optimizer.step()
    parts.schedule.step()
    parts.optimizer.zero_grad()
    if parts.average is not None:
        parts.average.update(parts.model)
    # The one place of a step that waits for the device.
    grad_norm, *values = torch.stack([norm.float(), *terms.values()]).tolist()
    return _metrics(run, step, laid, dict(zip(terms, values, strict=True)), grad_norm, lr, started)


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
            forgotten = not run.engine.run(partial(run.retention.check, progress.step, log.retention))
    (stop,) = run.ranks.most(caught[:1] or [0])
    if stop or better or forgotten or _due(trainer.save_every, run.plan, progress.step):
        checkpoint.save(run.directory.checkpoints, progress, parts, run.identity, run.ranks)
        if run.ranks.first:
            checkpoint.prune(run.directory.checkpoints, progress, trainer.keep_checkpoints)
    if forgotten and run.retention is not None:
        raise Forgotten(run.retention.verdict)
    return progress, stop


def _evaluate(run: Run, progress: Progress, log: Log | NoLog) -> tuple[Progress, bool]:
    """Evaluate, record it, and say whether it is the best one so far."""
    assert run.evaluate is not None
    found = run.engine.run(run.evaluate)
    log.evaluation(progress.step, round(progress.step / run.plan.steps_per_epoch, 4), found.values)
    log.say(f"eval step {progress.step}: held-out loss {found.loss:.4f}")
    if run.ranks.first:
        with run.directory.samples.open("a", encoding="utf-8") as file:
            for sample in found.samples:
                file.write(json.dumps({"step": progress.step, **sample}, ensure_ascii=False) + "\n")
    if math.isfinite(found.loss) and (progress.best_loss is None or found.loss < progress.best_loss):
        return replace(progress, best_step=progress.step, best_loss=found.loss, without_improvement=0), True
    return replace(progress, without_improvement=progress.without_improvement + 1), False


def _due(every: int | None, plan: Plan, step: int) -> bool:
    """Whether something that happens every ``every`` steps (None: every epoch), and at the end, happens at ``step``."""
    return step == plan.num_steps or (plan.ends_epoch(step - 1) if every is None else step % every == 0)


def _out_of_patience(run: Run, progress: Progress) -> bool:
    """Whether the held-out loss has not improved for too many evaluations."""
    patience = run.config.trainer.patience
    return patience is not None and progress.without_improvement >= patience


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 (a scheduler's warning) instead of dying; a second one kills as usual."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    def remember(number: int, _frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
