"""Score answers by a model: how well it predicts them after their prompts, and alone.

The ids of an answer are the same in both texts. The model's chat template renders the prompt; without one, the messages
are joined by line breaks. torch is imported when a model is loaded.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.clean.base import answer_text
from sft_cli.config.schema.clean import PerplexityConfig
from sft_cli.console import counted, say
from sft_cli.errors import SftError
from sft_cli.types import Conversation

IFD, PERPLEXITY = "ifd", "perplexity"
KEY = "clean.perplexity"
NOW = datetime(2025, 1, 1)
"""Date for templates that write one, so that scores do not depend on the day."""
CHUNK = 1024
"""Tokens whose logits exist at once."""


class ScoredIds(NamedTuple):
    """Token ids, and the index of the first that is scored."""

    ids: Sequence[int]
    scored_from: int


Perplexity = Callable[[Sequence[ScoredIds]], list[float]]
"""Returns the perplexity of the scored tokens of each document."""


@dataclass(frozen=True)
class PerplexityScorer:
    """A model that scores answers.

    Attributes:
        perplexity: Computes the perplexities of documents.
        tokenizer: Tokenizer of the model.
        template: Its chat template, or None.
        max_length: Maximum number of tokens of a row.
        with_ifd: Whether the answer is also scored without its prompt.
    """

    perplexity: Perplexity
    tokenizer: ChatTokenizer
    template: ChatTemplate | None
    max_length: int
    with_ifd: bool

    def scores(self, conversations: Sequence[Conversation]) -> list[dict[str, float] | None]:
        """Return the scores of each conversation by name; None if it has no answer to score."""
        pairs = [self.documents(conversation) for conversation in conversations]
        values = iter(self.perplexity([document for pair in pairs for document in pair]))
        results: list[dict[str, float] | None] = []
        for pair in pairs:
            pair_values = [next(values) for _ in pair]
            if not pair_values:
                results.append(None)
            elif self.with_ifd:
                results.append({PERPLEXITY: pair_values[0], IFD: pair_values[0] / pair_values[1]})
            else:
                results.append({PERPLEXITY: pair_values[0]})
        return results

    def documents(self, conversation: Conversation) -> list[ScoredIds]:
        """Return the answer after its prompt, and (for ifd) the answer alone; empty if there is nothing to score.

        A prompt that is too long loses its beginning, an answer its end; the prompt keeps up to half of the length.
        Alone, the answer follows the BOS token (or, without one, the EOS token). Without either, the first token of an
        answer alone cannot be predicted, and is scored in neither document.
        """
        answer = answer_text(conversation)
        prompt = self.prompt_text(conversation)
        if not answer.strip() or prompt is None:
            return []
        before, ids = self.tokenizer.encode_batch([prompt, answer])
        start_ids = self.start_ids
        if self.template is None:
            before = [*start_ids, *before]
        ids = ids[: self.max_length - max(1, min(len(before), self.max_length // 2))]
        before = before[max(0, len(before) - (self.max_length - len(ids))) :]
        skipped = 0 if start_ids and before else 1
        if len(ids) <= skipped:
            return []
        documents = [ScoredIds([*before, *ids], len(before) + skipped)]
        return [*documents, ScoredIds([*start_ids, *ids], len(start_ids) + skipped)] if self.with_ifd else documents

    @property
    def start_ids(self) -> list[int]:
        """The id before an answer alone, as a list; empty if the tokenizer has none."""
        special, control = self.tokenizer.special_tokens, self.tokenizer.control_tokens
        names = ["bos_token", "eos_token"] if self.tokenizer.adds_bos else ["eos_token", "bos_token"]
        return [control[special[name]] for name in names if name in special][:1]

    def prompt_text(self, conversation: Conversation) -> str | None:
        """Return the rendered text before the last answer; None without an answer, or if the template raises."""
        indices = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if not indices:
            return None
        before = conversation.messages[: indices[-1]]
        if self.template is None:
            return "".join(f"{message.content}\n" for message in before)
        messages = [{"role": message.role, "content": message.content, **message.extra} for message in before]
        try:
            template = self.template.for_tools if conversation.tools else self.template
            return template.render(messages, conversation.tools, True)
        except RenderError:
            return None


def load_scorer(config: PerplexityConfig, num_rows: int) -> PerplexityScorer:
    """Return the model and its tokenizer, ready to score."""
    assert config.model is not None
    tokenizer = load_tokenizer(config.model, None, f"{KEY}.model")
    source = tokenizer.chat_template
    template = None
    if source is not None:
        named = tokenizer.named_templates
        template = ChatTemplate(source, tokenizer.special_tokens, config.model, NOW, named=named).compile()
    perplexity, limit, device = _load_model(config)
    max_length = config.max_length if limit is None else min(config.max_length, limit)
    say(f"clean     {config.score} of {counted(num_rows, 'row')} by {config.model} on {device}")
    return PerplexityScorer(perplexity, tokenizer, template, max_length, config.score == IFD)


def _load_model(config: PerplexityConfig) -> tuple[Perplexity, int | None, str]:
    """Return the model's perplexity function, its context length (None if unknown), and its device."""
    from sft_cli.config.schema.adapter import QuantConfig
    from sft_cli.config.schema.config import ModelConfig
    from sft_cli.config.schema.trainer import TrainerConfig
    from sft_cli.model.device import choose_compute_setup
    from sft_cli.model.head.loss_model import build_loss_model
    from sft_cli.model.load import load_model

    setup = choose_compute_setup(TrainerConfig())
    try:
        model = load_model(
            ModelConfig(path=config.model),
            QuantConfig(),
            full=False,
            device=setup.device,
            compute_dtype=setup.dtype,
        )
    except SftError as error:
        fix = f"{KEY}.model=DIR_OR_HUB_ID without its own code" if "trust_remote_code" in error.fix else error.fix
        raise SftError(where=f"{KEY}.model={config.model}", problem=error.problem, fix=fix) from error
    with setup.precision():
        loss_model, _ = build_loss_model(model, CHUNK)

    def perplexity(documents: Sequence[ScoredIds]) -> list[float]:
        """Return the perplexity of each document; NaN if it has no scored token."""
        results = [math.nan] * len(documents)
        budget = config.tokens_per_batch if loss_model.packed else 0
        for batch in _batches(documents, budget):
            with setup.precision():
                losses = _losses(loss_model, [documents[index] for index in batch], setup.device)
            for index, losses_of_document in zip(batch, losses, strict=True):
                results[index] = math.exp(float(losses_of_document.mean()))
        return results

    limit = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return perplexity, limit, setup.device.type


def _batches(documents: Sequence[ScoredIds], budget: int) -> Iterator[list[int]]:
    """Yield the indices of the documents of each batch, in order: at most ``budget`` tokens, or one document."""
    batch: list[int] = []
    tokens = 0
    for number, document in enumerate(documents):
        if batch and tokens + len(document.ids) > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += len(document.ids)
    if batch:
        yield batch


def _losses(loss_model: Any, documents: Sequence[ScoredIds], device: Any) -> list[Any]:
    """Return the loss in nats of the scored tokens of each document, float64; the documents share one row."""
    import torch

    from sft_cli.batching.packed_row import pack_row

    starts = [0, *np.cumsum([len(document.ids) for document in documents]).tolist()]
    positions = [
        start + position
        for start, (ids, scored_from) in zip(starts, documents, strict=False)
        for position in range(scored_from, len(ids))
    ]
    ids = torch.tensor([id for document in documents for id in document.ids], device=device)
    targets = torch.tensor(positions, device=device)
    losses = loss_model.token_losses(
        ids[None],
        torch.tensor([position for document in documents for position in range(len(document.ids))], device=device)[
            None
        ],
        pack_row([len(document.ids) for document in documents]).to(device),
        ids[targets],
        targets - 1,
    )
    counts = [len(ids) - scored_from for ids, scored_from in documents]
    return [values.numpy() for values in losses.double().cpu().split(counts)]
