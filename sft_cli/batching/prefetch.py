"""The input pipeline: coming steps are laid out and collated in one thread while the present one is computed."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import torch

from sft_cli.batching.bin_packing import PAIRS
from sft_cli.batching.collate import Batch, collate, factors, lay
from sft_cli.batching.shared_prefixes import predicting
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split

AHEAD = 2
"""Steps made ready before they are asked for."""


@dataclass(frozen=True, slots=True)
class LaidStep:
    """A step as one rank computes it. Counts are those of all ranks.

    Attributes:
        batches: The rank's micro-batches, the longest first, on its device. The losses of all batches of all ranks add
            up to the loss of the step.
        examples: Examples of the step.
        tokens: Their tokens.
        computed_tokens: Tokens that go through the model: without what nothing depends on, shared ones once.
        trained_tokens: Tokens that are predicted with a weight.
    """

    batches: Sequence[Batch]
    examples: int
    tokens: int
    computed_tokens: int
    trained_tokens: int


class Feed:
    """The batches of step after step. A thread works ahead; what comes out does not depend on it."""

    def __init__(
        self,
        split: Split,
        plan_examples: Callable[[int], Sequence[int]],
        first_step: int,
        num_steps: int,
        *,
        reduction: Reduction,
        budget: int,
        packed: bool,
        share: Choice = Choice.never,
        replay: float | None = None,
        replayed: Collection[str] = (),
        ranks: int = 1,
        rank: int = 0,
        device: torch.device,
        pairs: float = PAIRS,
    ) -> None:
        """Begin with the first step at once.

        Args:
            split: The training examples.
            plan_examples: Step -> its examples, the same on every rank.
            first_step: The first step that will be taken.
            num_steps: Where the run ends.
            reduction: What the loss is a mean over.
            budget: Most tokens of a micro-batch.
            packed: Whether a row may hold several examples.
            share: Whether common beginnings are computed once, where the model is proven to allow it.
            replay: Lambda of ``loss.replay``.
            replayed: Names of the replayed sources.
            ranks: Number of processes.
            rank: The number of this one.
            device: Where the batches are wanted.
            pairs: Cost of attention, see ``placement.pair_cost``.
        """
        self._split, self._plan_examples, self._num_steps = split, plan_examples, num_steps
        self._reduction, self._budget, self._pairs = reduction, budget if packed else 0, pairs
        self._share = share
        self._ranks, self._rank, self._device = ranks, rank, device
        self._lambda = replay
        self._replayed = [name in replayed for name in split.sources] if replayed else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._coming: deque[tuple[int, Future[LaidStep]]] = deque()
        self._order(first_step)

    def take(self, step: int) -> LaidStep:
        """The batches of a step; steps are taken one after the other.

        Raises:
            Exception: Whatever went wrong while it was made.
        """
        assert self._coming, f"step {step} was not planned"
        number, future = self._coming.popleft()
        assert number == step, f"step {number} comes before step {step}"
        laid = future.result()
        self._order(step + 1)
        return replace(laid, batches=[batch.to(self._device) for batch in laid.batches])

    def close(self) -> None:
        """Stop working ahead; no thread is left."""
        self._coming.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Feed":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _order(self, step: int) -> None:
        """Have the thread make ``step`` and those behind it, as many as are made ahead."""
        first = self._coming[-1][0] + 1 if self._coming else step
        for number in range(first, min(step + AHEAD, self._num_steps)):
            self._coming.append((number, self._thread.submit(self._make, number)))

    def _make(self, number: int) -> LaidStep:
        """A step in main memory, pinned where it goes on to a card; runs in the thread."""
        chosen = self._plan_examples(number)
        step = [self._split.tokens(index) for index in chosen]
        laid = lay(step, budget=self._budget, ranks=self._ranks, share=self._share, pairs=self._pairs)
        replayed = None if self._replayed is None else [self._replayed[index] for index in chosen]
        scales = factors(step, self._reduction, replayed, self._lambda)
        batches = [
            collate(
                [step[place] for place in row],
                self._reduction,
                factors=[scales[place] for place in row],
                replayed=None if replayed is None else [replayed[place] for place in row],
                beginnings=None if laid.beginnings is None else laid.beginnings.among(row),
            )
            for row in laid.places[self._rank]
        ]
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):  # a thread begins on the first card, whatever the rank's
                batches = [batch.pinned() for batch in batches]
        return LaidStep(
            batches=batches,
            examples=len(step),
            tokens=sum(len(tokens.input_ids) for tokens in step),
            computed_tokens=laid.computed_tokens,
            trained_tokens=sum(len(predicting(tokens)) for tokens in step),
        )
