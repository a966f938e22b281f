"""The inputs of the training loop: settings, data, model and processes of a run."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from sft_cli.batching.bin_packing import DEFAULT_PAIR_COST
from sft_cli.batching.prefetch import Prefetcher
from sft_cli.batching.step_plan import StepPlan
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.speed import Choice
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import World
from sft_cli.model.head.loss_model import LossModel
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.best import Best
from sft_cli.train.monitoring.notify import Notifier
from sft_cli.train.monitoring.retention import RetentionGuard
from sft_cli.train.monitoring.step_rows import StepRow, list_step_rows
from sft_cli.train.parallel import ParallelModel
from sft_cli.train.recompute import RecomputeOnOom


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation during training.

    Attributes:
        loss: Held-out loss in nats; None without held-out rows.
        score: The value of ``trainer.best``, of which more is better; None if the loss decides.
        values: Values for metrics.jsonl.
        samples: Sample answers.
    """

    loss: float | None
    score: float | None
    values: Mapping[str, Any]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class TrainContext:
    """The inputs of the training loop.

    Attributes:
        directory: The run directory.
        config: The settings of the run.
        train: The training examples.
        plan: The examples of each step.
        model: The model with its loss.
        accelerator: The device and the mixed precision.
        fingerprint: The settings and digests that a checkpoint must have in common with the run.
        recompute: The layers that the backward pass recomputes.
        evaluate: Evaluates the held-out rows and suites after a step; None if there are neither.
        best: What decides which evaluation is the best; None: the held-out loss.
        retention: The guard against forgetting; None without probes.
        share_prefixes: Whether common prefixes of examples are computed once, as far as the model allows it.
        notifier: Sends messages about the run.
        replay_sources: Names of the replayed sources.
        pair_cost: Cost of one query-key pair, see ``bin_packing.attention_pair_cost``.
        parallel: How the processes of the run compute the model.
    """

    directory: RunDir
    config: Config
    train: Split
    plan: StepPlan
    model: LossModel
    accelerator: Accelerator
    fingerprint: Mapping[str, Any]
    recompute: RecomputeOnOom
    notifier: Notifier
    evaluate: Callable[[int], EvaluationResult] | None = None
    best: Best | None = None
    retention: RetentionGuard | None = None
    share_prefixes: Choice = Choice.never
    replay_sources: Collection[str] = field(default_factory=frozenset)
    pair_cost: float = DEFAULT_PAIR_COST
    parallel: ParallelModel = field(default_factory=ParallelModel)

    @property
    def world(self) -> World:
        """The processes of the run."""
        return self.parallel.world

    @property
    def has_loss_scale(self) -> bool:
        """Whether the gradient is scaled (float16), which skips overflowing steps by itself."""
        return self.accelerator.scaler is not None

    @property
    def best_by(self) -> str:
        """Digest of what decides which evaluation is the best; empty if the held-out loss does."""
        return "" if self.best is None else self.best.digest

    def step_rows(self, step: int) -> list[StepRow]:
        """Return the rows of a step (from 0), the longest first."""
        return list_step_rows(self.train, self.plan.examples(step))

    def prefetch(self, first_step: int) -> Prefetcher:
        """Return an iterator over the batches, starting at a step."""
        return Prefetcher(
            self.train,
            self.plan.examples,
            first_step,
            self.plan.num_steps,
            reduction=self.config.loss.reduction,
            max_tokens=resolved(self.config.speed.tokens_per_micro_batch),
            packed=self.model.packed,
            share_prefixes=self.share_prefixes,
            replay_weight=self.config.loss.replay,
            replay_sources=self.replay_sources,
            world_size=self.world.size,
            rank=self.world.rank,
            device=self.accelerator.device,
            pair_cost=self.pair_cost,
        )
