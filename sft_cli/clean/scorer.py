"""A model as a judge of answers: how well it predicts them after their prompts, and alone.

The ids of an answer are the same in both texts. The prompt is written by the model's chat template, or its messages
stand below each other. torch is imported when a model is loaded, not before.
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
"""What a template that writes the date writes: scores do not depend on the day."""
CHUNK = 1024
"""Tokens whose logits exist at once."""


class ScoredIds(NamedTuple):
    """Token ids, and the first of them that is scored."""

    ids: Sequence[int]
    scored_from: int


Perplexity = Callable[[Sequence[ScoredIds]], list[float]]
"""The perplexity of the scored tokens of each document."""


@dataclass(frozen=True)
class Scorer:
    """A model's judgement of answers.

    Attributes:
        perplexity: The perplexities of documents.
        tokenizer: The model's.
        template: Its chat template, or None.
        max_length: Tokens it sees of a row.
        with_ifd: Whether the answer is scored without its prompt, too.
    """

    perplexity: Perplexity
    tokenizer: ChatTokenizer
    template: ChatTemplate | None
    max_length: int
    with_ifd: bool

    def scores(self, conversations: Sequence[Conversation]) -> list[dict[str, float] | None]:
        """The scores of each conversation by name; None where there is no answer to score."""
        pairs = [self.documents(conversation) for conversation in conversations]
        values = iter(self.perplexity([document for pair in pairs for document in pair]))
        found: list[dict[str, float] | None] = []
        for pair in pairs:
            of_pair = [next(values) for _ in pair]
            if not of_pair:
                found.append(None)
            elif self.with_ifd:
                found.append({PERPLEXITY: of_pair[0], IFD: of_pair[0] / of_pair[1]})
            else:
                found.append({PERPLEXITY: of_pair[0]})
        return found

    def documents(self, conversation: Conversation) -> list[ScoredIds]:
        """The answer after its prompt, and (for ifd) the answer alone; empty if there is nothing to score.

        Too long a prompt loses its beginning, too long an answer its end; a prompt keeps up to half of the length.
        Alone, the answer follows the token a text begins with (or, without one, ends with). A tokenizer that has
        neither cannot predict the first token of an answer alone: then it is scored in neither document.
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
        """The id that stands before an answer alone; empty if the tokenizer has none."""
        special, control = self.tokenizer.special_tokens, self.tokenizer.control_tokens
        names = ["bos_token", "eos_token"] if self.tokenizer.adds_bos else ["eos_token", "bos_token"]
        return [control[special[name]] for name in names if name in special][:1]

    def prompt_text(self, conversation: Conversation) -> str | None:
        """What stands before the last answer; None without an answer, or if the template refuses."""
        places = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if not places:
            return None
        before = conversation.messages[: places[-1]]
        if self.template is None:
            return "".join(f"{message.content}\n" for message in before)
        messages = [{"role": message.role, "content": message.content, **message.extra} for message in before]
        try:
            template = self.template.for_tools if conversation.tools else self.template
            return template.render(messages, conversation.tools, True)
        except RenderError:
            return None


def load_scorer(config: PerplexityConfig, num_rows: int) -> Scorer:
    """The model and its tokenizer, ready to score."""
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
    return Scorer(perplexity, tokenizer, template, max_length, config.score == IFD)


def _load_model(config: PerplexityConfig) -> tuple[Perplexity, int | None, str]:
    """The model's perplexity, the longest text it was made for, and its device."""
    from sft_cli.config.schema.adapter import QuantConfig
    from sft_cli.config.schema.config import ModelConfig
    from sft_cli.config.schema.trainer import TrainerConfig
    from sft_cli.model.device import choose_compute_setup
    from sft_cli.model.head.loss_model import build_loss_model
    from sft_cli.model.load import load_model

    machine = choose_compute_setup(TrainerConfig())
    try:
        model = load_model(
            ModelConfig(path=config.model),
            QuantConfig(),
            full=False,
            device=machine.device,
            compute_dtype=machine.dtype,
        )
    except SftError as error:
        fix = "name a model without its own code" if "trust_remote_code" in error.fix else error.fix
        raise SftError(where=f"{KEY}.model={config.model}", problem=error.problem, fix=fix) from error
    with machine.precision():
        loss_model, _ = build_loss_model(model, CHUNK)

    def perplexity(documents: Sequence[ScoredIds]) -> list[float]:
        """Return the perplexity of each document; NaN if it has no scored token."""
        found = [math.nan] * len(documents)
        budget = config.tokens_per_batch if loss_model.packed else 0
        for members in _batches(documents, budget):
            with machine.precision():
                losses = _losses(loss_model, [documents[member] for member in members], machine.device)
            for member, own in zip(members, losses, strict=True):
                found[member] = math.exp(float(own.mean()))
        return found

    limit = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return perplexity, limit, machine.device.type


def _batches(documents: Sequence[ScoredIds], budget: int) -> Iterator[list[int]]:
    """Numbers of the documents of each batch, in order: at most ``budget`` tokens, or one document."""
    members: list[int] = []
    tokens = 0
    for number, document in enumerate(documents):
        if members and tokens + len(document.ids) > budget:
            yield members
            members, tokens = [], 0
        members.append(number)
        tokens += len(document.ids)
    if members:
        yield members


def _losses(loss_model: Any, documents: Sequence[ScoredIds], device: Any) -> list[Any]:
    """Nats of the scored tokens of each document, float64, ``(scored tokens,)``; the documents share one row."""
    import torch

    from sft_cli.batching.packed_row import pack_row as laid_out

    starts = [0, *np.cumsum([len(document.ids) for document in documents]).tolist()]
    places = [
        start + place
        for start, (ids, scored_from) in zip(starts, documents, strict=False)
        for place in range(scored_from, len(ids))
    ]
    ids = torch.tensor([id for document in documents for id in document.ids], device=device)
    targets = torch.tensor(places, device=device)
    losses = loss_model.token_losses(
        ids[None],
        torch.tensor([place for document in documents for place in range(len(document.ids))], device=device)[None],
        laid_out([len(document.ids) for document in documents]).to(device),
        ids[targets],
        targets - 1,
    )
    counts = [len(ids) - scored_from for ids, scored_from in documents]
    return [own.numpy() for own in losses.double().cpu().split(counts)]
