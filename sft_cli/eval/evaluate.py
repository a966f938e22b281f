"""One evaluation of one model: loss, answers, and how many of them are right. No files, no printing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split
from sft_cli.eval.exact_match import Decode, Item, items, matches
from sft_cli.eval.generate import answers
from sft_cli.eval.heldout import HeldOut, Loss, heldout_loss
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.quant import causal_lm

SHOWN = 160
"""Characters of a prompt or an answer in a sample."""
SAMPLE_INDENT = 12
"""Columns before the texts of a sample."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model said to one item; see ``generate.Answer``."""

    text: str
    correct: bool
    stopped: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """The numbers of one source, or of all.

    Attributes:
        loss: Held-out loss; see ``heldout.Loss``.
        perplexity: e to the loss per trained token.
        trained_tokens: Tokens the loss is over.
        examples: Examples the loss is over.
        items: Prompts that were answered.
        exact_match: Share of them answered like the reference, both normalised; None without any.
        stopped_share: Share of the answers that a stop token ended; None without any.
    """

    loss: float
    perplexity: float
    trained_tokens: int
    examples: int
    items: int
    exact_match: float | None
    stopped_share: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The scores over all rows and of each source, by name."""

    overall: Scores
    sources: Mapping[str, Scores]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics, and every item with its answer."""

    metrics: Metrics
    items: tuple[Item, ...]
    answers: tuple[Answered, ...]


def evaluate(
    loss_model: LossModel,
    split: Split,
    config: EvalConfig,
    *,
    reduction: Reduction,
    budget: int,
    decode: Decode,
    stop_ids: Sequence[int],
    indices: Sequence[int] | None = None,
    loss_progress: Callable[[int, int], None] | None = None,
    answer_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on a split; it is left as it was, and no random generator is used.

    Args:
        loss_model: The model; autocast is the caller's.
        split: Held-out examples; at least one.
        config: Whether to generate, for how many rows, and how much.
        reduction: What the loss is a mean over.
        budget: Most tokens of a micro-batch.
        decode: Ids -> text.
        stop_ids: Tokens that end an answer; at least one.
        indices: Examples to take; None for all.
        loss_progress: Told of computed losses.
        answer_progress: Told of answered prompts.
    """
    lm = causal_lm(loss_model.model)
    losses = heldout_loss(
        loss_model,
        split,
        reduction=reduction,
        budget=budget,
        packed=loss_model.packed,
        share=loss_model.shares_prefixes,
        device=lm.device,
        indices=indices,
        progress=loss_progress,
    )
    asked = items(split, decode, stop_ids, indices, config.max_rows) if config.generate else []
    said = answers(
        loss_model.model,
        [item.prompt_ids for item in asked],
        stop_ids=stop_ids,
        pad_id=stop_ids[0],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        progress=answer_progress,
    )
    texts = [decode(answer.ids) for answer in said]
    answered = tuple(
        Answered(text, matches(text, item.expected), answer.stopped, answer.truncated)
        for item, answer, text in zip(asked, said, texts, strict=True)
    )
    return Evaluation(metrics(losses, asked, answered), tuple(asked), answered)


def metrics(losses: HeldOut, asked: Sequence[Item], answered: Sequence[Answered]) -> Metrics:
    """The losses joined with the scores of the answers."""
    by_source = {
        name: _scores(loss, [a for item, a in zip(asked, answered, strict=True) if item.source == name])
        for name, loss in losses.sources.items()
    }
    return Metrics(_scores(losses.overall, answered), by_source)


def _scores(loss: Loss, answered: Sequence[Answered]) -> Scores:
    """The scores of one group of rows."""
    return Scores(
        loss=loss.loss,
        perplexity=loss.perplexity,
        trained_tokens=loss.trained_tokens,
        examples=loss.examples,
        items=len(answered),
        exact_match=share([answer.correct for answer in answered]),
        stopped_share=share([answer.stopped for answer in answered]),
    )


def share(flags: Sequence[bool]) -> float | None:
    """The share of flags that are set; None of none."""
    return sum(flags) / len(flags) if flags else None


def sample_lines(items: Sequence[Item], answers: Mapping[str, Sequence[str]], n: int) -> list[str]:
    """Lines that show ``n`` items, spread evenly over all, with the answers of each model.

    Args:
        items: What was asked.
        answers: A model's name, at most nine letters -> its answer to each item.
        n: Most items shown.
    """
    shown = min(n, len(items))
    lines = []
    for place in (i * len(items) // shown for i in range(shown)):
        item = items[place]
        given = {name: texts[place] for name, texts in answers.items()}
        texts = {"prompt": item.prompt, "expected": item.expected, **given}
        lines += [
            item.where,
            *(f"  {name:<9} {_one_line(text, tail=name == 'prompt')}" for name, text in texts.items()),
        ]
    return lines


def _one_line(text: str, *, tail: bool) -> str:
    """The text on one line: of a long prompt the end, where the question stands, of anything else the beginning."""
    # An untrained model says anything, control characters of the terminal included.
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split())) or "(blank)"
    if len(line) <= SHOWN:
        return line
    return f"…{line[-SHOWN:]}" if tail else f"{line[:SHOWN]}…"
