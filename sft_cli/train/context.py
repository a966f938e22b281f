"""Everything the training loop reads: a run's settings, data, model and processes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from sft_cli.batching.bin_packing import PAIRS
from sft_cli.batching.prefetch import Feed
from sft_cli.batching.step_plan import Plan
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Choice
from sft_cli.data.prepared import Split
from sft_cli.distributed.process_group import Ranks
from sft_cli.model.head.loss_model import LossModel
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.retention import Retention
from sft_cli.train.monitoring.step_rows import StepRow, rows_of
from sft_cli.train.parallel import Engine
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

    @property
    def scaled(self) -> bool:
        """Whether a loss scale (float16) looks after the gradient."""
        return self.accelerator.scaler is not None

    def rows(self, step: int) -> list[StepRow]:
        """The rows of a step (from 0), the longest first."""
        return rows_of(self.train, self.plan.examples(step))

    def feed(self, first_step: int) -> Feed:
        """The batches from a step on."""
        return Feed(
            self.train,
            self.plan.examples,
            first_step,
            self.plan.num_steps,
            reduction=self.config.loss.reduction,
            budget=self.config.speed.tokens_per_micro_batch,
            packed=self.model.packed,
            share=self.share,
            replay=self.config.loss.replay,
            replayed=self.replayed,
            ranks=self.ranks.place.size,
            rank=self.ranks.place.rank,
            device=self.accelerator.device,
            pairs=self.pairs,
        )
