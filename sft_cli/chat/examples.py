"""Conversations into proven examples: render, encode, unroll where history is rewritten, shorten what is too long."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sft_cli.chat.encode import Encoded, Encoder, Unproven
from sft_cli.chat.spans import MARK_START, Rendered, Renderer
from sft_cli.chat.template import ChatTemplate, TemplateRefusal
from sft_cli.chat.tokenizer import ChatTokenizer
from sft_cli.config.schema import DataConfig, Overflow
from sft_cli.data.types import Conversation, Example, Message
from sft_cli.errors import SftError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one conversation.

    Attributes:
        examples: Its examples, in turn order; empty if it was refused.
        problem: Why it was refused, or None.
        too_long: Whether the refusal is its length.
        dropped_messages: Messages taken from its front to make it fit.
        sanitized: Whether special-token strings in it became plain text.
        stops: Stop tokens that end its trained turns.
    """

    examples: tuple[Example, ...] = ()
    problem: SftError | None = None
    too_long: bool = False
    dropped_messages: int = 0
    sanitized: bool = False
    stops: frozenset[str] = frozenset()


class ExampleMaker:
    """Makes examples with one tokenizer, one template and one set of rules."""

    def __init__(self, tokenizer: ChatTokenizer, template: ChatTemplate, data: DataConfig, max_length: int) -> None:
        self.renderer = Renderer(template, tokenizer, data.train_on, data.sanitize)
        self.encoder = Encoder(tokenizer)
        self._template_name, self._overflow, self._max_length = template.name, data.overflow, max_length

    def check_template(self) -> None:
        """Refuse a template that can teach no model to answer, before any row is blamed for it."""
        probe = Conversation((Message("user", "Hi"), Message("assistant", "Hello")), "a one-turn conversation", "")
        outcome, where = self._encoded([probe])[0], f"template {self._template_name}"
        if outcome.problem is not None and not outcome.too_long:
            raise SftError(
                where=where,
                problem=outcome.problem.problem.partition(": ")[2],
                fix="choose a template made for this tokenizer: template=auto (its own), alpaca, vicuna or plain",
            )
        if unprompted := self.renderer.unprompted():
            raise SftError(
                where=where,
                problem="it ignores add_generation_prompt: no server's prompt would hold"
                f" the {unprompted!r} before an answer",
                fix="write it at the template's end, inside {% if add_generation_prompt %}…{% endif %}",
            )

    def make(self, conversations: Sequence[Conversation]) -> list[Outcome]:
        """The examples of each conversation, or why there are none."""
        outcomes = self._encoded(conversations)
        if self._overflow is Overflow.drop_oldest_turns:
            pairs = zip(conversations, outcomes, strict=True)
            return [self._shortened(one, outcome) if outcome.too_long else outcome for one, outcome in pairs]
        return outcomes

    def _encoded(self, conversations: Sequence[Conversation]) -> list[Outcome]:
        """The examples of each conversation as it is, or why there are none."""
        rendered = [self._render(conversation) for conversation in conversations]
        encoded = iter(self.encoder.encode([text for texts in rendered if isinstance(texts, list) for text in texts]))
        outcomes = []
        for conversation, texts in zip(conversations, rendered, strict=True):
            if isinstance(texts, list):
                outcomes.append(self._finish(conversation, texts, [next(encoded) for _ in texts]))
            else:
                outcomes.append(Outcome(problem=texts))
        return outcomes

    def _render(self, conversation: Conversation, unroll: bool = False) -> list[Rendered] | SftError:
        try:
            return self.renderer.render(conversation, unroll)
        except TemplateRefusal as refusal:
            return self._refused(conversation, str(refusal))

    def _finish(
        self, conversation: Conversation, texts: list[Rendered], encoded: list[Encoded | Unproven | None]
    ) -> Outcome:
        """Join texts and ids to examples; unroll first where needed."""
        if None in encoded:
            unrolled = self._render(conversation, unroll=True)
            if isinstance(unrolled, SftError):
                return Outcome(problem=unrolled)
            texts, encoded = unrolled, self.encoder.encode(unrolled)
        examples = []
        for text, ids in zip(texts, encoded, strict=True):
            assert ids is not None, "a text with one span is never unrolled"
            if isinstance(ids, Unproven):
                return Outcome(problem=self._refused(conversation, str(ids)))
            examples.append(_example(conversation, text, ids))
        longest = max(len(example.input_ids) for example in examples)
        if longest > self._max_length:
            return Outcome(problem=self._too_long(conversation, longest), too_long=True)
        stops = frozenset(stop for text in texts for stop in text.stops)
        return Outcome(tuple(examples), sanitized=any(MARK_START in text.text for text in texts), stops=stops)

    def _shortened(self, conversation: Conversation, outcome: Outcome) -> Outcome:
        """What becomes of it without as few of its oldest turns as make it fit; ``outcome`` if that never does."""
        shorter = _without_oldest_turns(conversation)
        low, high = 0, len(shorter)
        while low < high:
            middle = (low + high) // 2
            tried = self._encoded([shorter[middle]])[0]
            if tried.problem is None:
                gone = len(conversation.messages) - len(shorter[middle].messages)
                high, outcome = middle, replace(tried, dropped_messages=gone)
            else:
                low = middle + 1
        return outcome

    def _too_long(self, conversation: Conversation, longest: int) -> SftError:
        options = (
            "data.overflow=drop" if self._overflow is not Overflow.error else "data.overflow=drop or drop_oldest_turns"
        )
        return SftError(
            where=conversation.where,
            problem=f"{longest} tokens, longer than trainer.max_length={self._max_length}",
            fix=f"raise trainer.max_length, or {options}",
        )

    def _refused(self, conversation: Conversation, why: str) -> SftError:
        return SftError(
            where=conversation.where,
            problem=f"its mask cannot be proven with template {self._template_name}: {why}",
            fix="correct the row, choose another template=, or leave such rows out with data.on_bad_row=drop",
        )


def _example(conversation: Conversation, text: Rendered, encoded: Encoded) -> Example:
    """Ids and per-id weights, cut behind the last trained id: nothing depends on what follows."""
    weights = [0.0] * encoded.spans[-1][1]
    for (start, end), span in zip(encoded.spans, text.spans, strict=True):
        weights[start:end] = [span.weight] * (end - start)
    weights[0] = 0.0  # nothing predicts the first token
    return Example(tuple(encoded.input_ids[: len(weights)]), tuple(weights), conversation.where, conversation.source)


def _without_oldest_turns(conversation: Conversation) -> list[Conversation]:
    """The conversation without its first exchange, its first two …, the last one left; system message kept."""
    messages = conversation.messages
    head = 1 if messages and messages[0].role == "system" else 0
    users = [i for i in range(head + 1, len(messages)) if messages[i].role == "user"]
    trained = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]
    return [replace(conversation, messages=messages[:head] + messages[i:]) for i in users if i < trained[-1]]
