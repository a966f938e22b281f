"""The input pipeline: a thread plans and collates the next steps while the current one is computed."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import torch

from sft_cli.batching.bin_packing import DEFAULT_PAIR_COST
from sft_cli.batching.collate import Batch, collate, example_loss_weights, plan_micro_batches
from sft_cli.batching.shared_prefixes import target_positions
from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split

PREFETCH_STEPS = 2
"""Number of steps that are built in advance."""


def replayed_sources(mix: Mapping[str, SourceConfig]) -> frozenset[str]:
    """Return the names of the replayed sources of a mix."""
    return frozenset(name for name, source in mix.items() if source.role is Role.replay)


@dataclass(frozen=True, slots=True)
class StepBatches:
    """The batches of a step for one rank, and counts over all ranks.

    Attributes:
        batches: The rank's micro-batches, the longest first, on its device. The sum of the losses of all batches of all
            ranks is the loss of the step.
        examples: Number of examples of the step.
        tokens: Number of their tokens.
        computed_tokens: Number of tokens that go through the model: shared tokens count once, and tokens that no loss
            depends on do not count.
        trained_tokens: Number of tokens with loss.
    """

    batches: Sequence[Batch]
    examples: int
    tokens: int
    computed_tokens: int
    trained_tokens: int


class Prefetcher:
    """The batches of consecutive steps, built in advance in a thread; the result does not depend on the thread."""

    def __init__(
        self,
        split: Split,
        step_examples: Callable[[int], Sequence[int]],
        first_step: int,
        num_steps: int,
        *,
        reduction: Reduction,
        max_tokens: int,
        packed: bool,
        share_prefixes: Choice = Choice.never,
        replay_weight: float | None = None,
        replay_sources: Collection[str] = (),
        world_size: int = 1,
        rank: int = 0,
        device: torch.device,
        pair_cost: float = DEFAULT_PAIR_COST,
    ) -> None:
        """Start to build the first step.

        Args:
            split: The training examples.
            step_examples: Returns the indices of a step's examples, the same on every rank.
            first_step: The first step to get.
            num_steps: Number of steps of the run.
            reduction: Whether the loss is a mean over tokens or examples.
            max_tokens: Largest number of tokens of a micro-batch.
            packed: Whether a row may have several examples.
            share_prefixes: Whether common prefixes are computed once, as far as the model supports it.
            replay_weight: Lambda of ``loss.replay``.
            replay_sources: Names of the replayed sources.
            world_size: Number of processes.
            rank: Rank of this process.
            device: The device of the batches.
            pair_cost: Cost of attention, see ``bin_packing.attention_pair_cost``.
        """
        self._split, self._step_examples, self._num_steps = split, step_examples, num_steps
        self._reduction, self._max_tokens, self._pair_cost = reduction, max_tokens if packed else 0, pair_cost
        self._share_prefixes = share_prefixes
        self._world_size, self._rank, self._device = world_size, rank, device
        self._replay_weight = replay_weight
        self._replayed = [name in replay_sources for name in split.sources] if replay_sources else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[tuple[int, Future[StepBatches]]] = deque()
        self._submit(first_step)

    def get(self, step: int) -> StepBatches:
        """Return the batches of a step and start to build the next one. Call it for each step in order.

        Raises:
            Exception: Any error of the thread that built the step.
        """
        assert self._pending, f"step {step} was not planned"
        number, future = self._pending.popleft()
        assert number == step, f"step {number} comes before step {step}"
        built = future.result()
        self._submit(step + 1)
        return replace(built, batches=[batch.to(self._device) for batch in built.batches])

    def close(self) -> None:
        """Stop the thread."""
        self._pending.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread."""
        self.close()

    def _submit(self, step: int) -> None:
        """Let the thread build ``step`` and the following steps, ``PREFETCH_STEPS`` in all."""
        first = self._pending[-1][0] + 1 if self._pending else step
        for number in range(first, min(step + PREFETCH_STEPS, self._num_steps)):
            self._pending.append((number, self._thread.submit(self._build_step, number)))

    def _build_step(self, number: int) -> StepBatches:
        """Build a step in main memory, pinned for transfer to a GPU; runs in the thread."""
        indices = self._step_examples(number)
        examples = [self._split.tokens(index) for index in indices]
        plan = plan_micro_batches(
            examples,
            max_tokens=self._max_tokens,
            world_size=self._world_size,
            share_prefixes=self._share_prefixes,
            pair_cost=self._pair_cost,
        )
        replayed = None if self._replayed is None else [self._replayed[index] for index in indices]
        weights = example_loss_weights(examples, self._reduction, replayed, self._replay_weight)
        batches = [
            collate(
                [examples[i] for i in row],
                self._reduction,
                example_weights=[weights[i] for i in row],
                replayed=None if replayed is None else [replayed[i] for i in row],
                prefixes=None if plan.prefixes is None else plan.prefixes.restrict(row),
            )
            for row in plan.partition[self._rank]
        ]
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):  # a new thread uses the first GPU, whatever the rank's
                batches = [batch.pin_memory() for batch in batches]
        return StepBatches(
            batches=batches,
            examples=len(examples),
            tokens=sum(len(tokens.input_ids) for tokens in examples),
            computed_tokens=plan.computed_tokens,
            trained_tokens=sum(len(target_positions(tokens)) for tokens in examples),
        )
