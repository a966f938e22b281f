"""Evaluate a model on a split: loss, generated answers and their scores. Writes and prints nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import Split
from sft_cli.eval.exact_match import Decode, Question, extract_questions
from sft_cli.eval.generate import generate_answers
from sft_cli.eval.heldout import GroupLoss, HeldOutLosses, heldout_loss
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.quant import causal_lm
from sft_cli.scoring.normalize import is_exact_match
from sft_cli.utils.text import excerpt

SAMPLE_CHARACTERS = 160
"""Largest number of characters of a prompt or an answer in a sample."""
SAMPLE_INDENT = 12
"""Columns by which the lines of a sample are indented."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """The answer to a question, and whether it is correct; see ``generate.GeneratedAnswer``."""

    text: str
    correct: bool
    stopped: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class EvalScores:
    """The scores of one source, or of all.

    Attributes:
        loss: Held-out loss; see ``heldout.GroupLoss``.
        perplexity: e to the loss per trained token.
        trained_tokens: Number of tokens of the loss.
        examples: Number of examples of the loss.
        items: Number of answered questions.
        exact_match: Fraction of the answers that equal the reference, both normalized; None without answers.
        stopped_share: Fraction of the answers that end with a stop token; None without answers.
    """

    loss: float
    perplexity: float
    trained_tokens: int
    examples: int
    items: int
    exact_match: float | None
    stopped_share: float | None


@dataclass(frozen=True, slots=True)
class EvalMetrics:
    """The scores over all rows and of each source, by name; the loss by turn, length and tag, and there by value."""

    overall: EvalScores
    sources: Mapping[str, EvalScores]
    groups: Mapping[str, Mapping[str, GroupLoss]] = field(default_factory=dict)
    loss: GroupLoss | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics, and every question with its answer."""

    metrics: EvalMetrics
    items: tuple[Question, ...]
    answers: tuple[ScoredAnswer, ...]

    @property
    def expected(self) -> list[str]:
        """The reference answers."""
        return [item.expected for item in self.items]

    @property
    def texts(self) -> list[str]:
        """The generated answers."""
        return [answer.text for answer in self.answers]


def evaluate_split(
    loss_model: LossModel,
    split: Split,
    config: EvalConfig,
    *,
    reduction: Reduction,
    max_tokens: int,
    decode: Decode,
    stop_ids: Sequence[int],
    indices: Sequence[int] | None = None,
    tags: Sequence[Mapping[str, str]] | None = None,
    loss_progress: Callable[[int, int], None] | None = None,
    answer_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on a split; the model is unchanged, and no random generator is used.

    Args:
        loss_model: The model; the caller enters autocast.
        split: Held-out examples; at least one.
        config: The settings of generation.
        reduction: Whether the loss is a mean over tokens or examples.
        max_tokens: Largest number of tokens of a micro-batch.
        decode: Decodes ids to text.
        stop_ids: Tokens that end an answer; at least one.
        indices: The examples to evaluate; None for all.
        tags: See ``heldout_loss``.
        loss_progress: Called with the numbers of computed and of all examples.
        answer_progress: Called with the numbers of answered and of all prompts.
    """
    lm = causal_lm(loss_model.model)
    losses = heldout_loss(
        loss_model,
        split,
        reduction=reduction,
        max_tokens=max_tokens,
        packed=loss_model.packed,
        share_prefixes=loss_model.shares_prefixes,
        device=lm.device,
        indices=indices,
        tags=tags,
        progress=loss_progress,
    )
    questions = extract_questions(split, decode, stop_ids, indices, config.max_rows) if config.generate else []
    generated = generate_answers(
        loss_model.model,
        [item.prompt_ids for item in questions],
        stop_ids=stop_ids,
        pad_id=stop_ids[0],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        share_prefixes=loss_model.shares_prefixes,
        progress=answer_progress,
    )
    texts = [decode(answer.ids) for answer in generated]
    scored = tuple(
        ScoredAnswer(text, is_exact_match(text, item.expected), answer.stopped, answer.truncated)
        for item, answer, text in zip(questions, generated, texts, strict=True)
    )
    return Evaluation(combine_metrics(losses, questions, scored), tuple(questions), scored)


def combine_metrics(
    losses: HeldOutLosses, questions: Sequence[Question], scored: Sequence[ScoredAnswer]
) -> EvalMetrics:
    """Combine the losses with the scores of the answers."""
    by_source = {
        name: _group_scores(loss, [a for item, a in zip(questions, scored, strict=True) if item.source == name])
        for name, loss in losses.sources.items()
    }
    return EvalMetrics(_group_scores(losses.overall, scored), by_source, losses.groups, losses.overall)


def _group_scores(loss: GroupLoss, scored: Sequence[ScoredAnswer]) -> EvalScores:
    """Return the scores of one group of rows."""
    return EvalScores(
        loss=loss.loss,
        perplexity=loss.perplexity,
        trained_tokens=loss.trained_tokens,
        examples=loss.examples,
        items=len(scored),
        exact_match=fraction_true([answer.correct for answer in scored]),
        stopped_share=fraction_true([answer.stopped for answer in scored]),
    )


def fraction_true(flags: Sequence[bool]) -> float | None:
    """Return the fraction of the flags that are true; None if there are none."""
    return sum(flags) / len(flags) if flags else None


def sample_lines(questions: Sequence[Question], answers: Mapping[str, Sequence[str]], n: int) -> list[str]:
    """Return lines that show ``n`` questions, spread evenly over all, with the answers of each model.

    Args:
        questions: The questions.
        answers: By the name of a model, of at most nine letters, its answer to each question.
        n: Largest number of questions to show.
    """
    num_samples = min(n, len(questions))
    lines = []
    for index in (i * len(questions) // num_samples for i in range(num_samples)):
        item = questions[index]
        model_answers = {name: texts[index] for name, texts in answers.items()}
        texts = {"prompt": item.prompt, "expected": item.expected, **model_answers}
        lines += [
            item.where,
            *(f"  {name:<9} {excerpt(text, SAMPLE_CHARACTERS, tail=name == 'prompt')}" for name, text in texts.items()),
        ]
    return lines
