"""Conversations into proven examples: render, encode, unroll where history is rewritten, shorten what is too long.

Documents may be cut into pieces instead; rows of token ids are taken as they are. What data.overflow=truncate leaves of
a row is decided after the proof of the whole row (chat/truncation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sft_cli.chat.documents import Unusable, checked, pieces, without_stop
from sft_cli.chat.encode import Encoded, Encoder, Unproven
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.masks.spans import Rendered, Renderer
from sft_cli.chat.row_texts import Texts
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.template.conversation_features import Holds, together
from sft_cli.chat.template.normalize import mistakes, shaped
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.chat.truncation import CUT_ANSWER, Proven, runs, truncate, without_open_turn
from sft_cli.config.schema.data import DataConfig, Overflow, Thinking
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Example, TokenIds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Attributes:
        examples: Its examples, in turn order; empty if it was refused.
        problem: Why it was refused, or None.
        too_long: Whether the refusal is its length.
        all_cut: Whether it is refused because truncation would leave no trained token.
        dropped_messages: Messages taken from its front to make it fit.
        remarks: Keys of data/remarks.py: what encoding did to it or saw in it.
        stops: Stop tokens that end its trained turns.
        pieces: Examples that a document too long for one was cut into; 0 if it was not cut.
        longest: Tokens of its longest example, also of one that is too long or was cut; 0 where none was made.
        least: The shortest trainer.max_length at which truncation leaves a trained token; ``longest`` where no example
            is too long.
        truncated_tokens: Tokens that truncation cut.
    """

    examples: tuple[Example, ...] = ()
    problem: SftError | None = None
    too_long: bool = False
    all_cut: bool = False
    dropped_messages: int = 0
    remarks: frozenset[str] = frozenset()
    stops: frozenset[str] = frozenset()
    pieces: int = 0
    longest: int = 0
    least: int = 0
    truncated_tokens: int = 0


class ExampleMaker:
    """Makes examples with one tokenizer, one template and one set of rules.

    Args:
        tokenizer: Makes the ids.
        template: Lays out conversations.
        data: The rules.
        max_length: Longest example, in tokens.
        split_documents: Cut documents that are longer into pieces (LM replay); otherwise data.overflow decides.
        loss_weight: Factor on every weight.

    Raises:
        SftError: The rules contradict each other.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        template: ChatTemplate,
        data: DataConfig,
        max_length: int,
        split_documents: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        raise_all(mistakes(data))
        self.renderer = Renderer(template, tokenizer, data)
        self._with_tools = Renderer(template.for_tools, tokenizer, data) if template.named else self.renderer
        self.encoder = Encoder(tokenizer)
        self._texts = Texts(template, tokenizer, data)
        self._tokenizer, self._template, self._data = tokenizer, template, data
        self._max_length, self._split_documents, self._loss_weight = max_length, split_documents, loss_weight

    def renderer_of(self, conversation: Conversation) -> Renderer:
        """What lays out a conversation: a tokenizer may have a template of its own for those with tools."""
        return self._with_tools if conversation.tools else self.renderer

    @cached_property
    def template_check(self) -> TemplateCheck:
        """What tries the template before any row is blamed for it, and knows which others fit."""
        return TemplateCheck(self._tokenizer, self._template, self._data)

    def shaped(self, conversation: Conversation) -> Conversation:
        """The conversation as it is rendered: with the system message and the reasoning that the rules ask for.

        Raises:
            TemplateRefusal: The rules leave nothing of a message, or a rendered text cannot be split.
        """
        return shaped(self._texts.opened(conversation).conversation, self._data)

    def make(self, conversations: Sequence[Conversation]) -> list[Outcome]:
        """The examples of each conversation, or why there are none."""
        outcomes = self._encoded(conversations)
        if self._data.overflow is Overflow.drop_oldest_turns:
            pairs = zip(conversations, outcomes, strict=True)
            outcomes = [self._shortened(one, outcome) if outcome.too_long else outcome for one, outcome in pairs]
        return outcomes

    def _encoded(self, conversations: Sequence[Conversation]) -> list[Outcome]:
        """The examples of each conversation as it is, or why there are none."""
        rendered = [[] if one.tokens is not None else self._render(one) for one in conversations]
        encoded = iter(self.encoder.encode([text for texts in rendered if isinstance(texts, list) for text in texts]))
        outcomes = []
        for conversation, texts in zip(conversations, rendered, strict=True):
            if conversation.tokens is not None:
                outcomes.append(self._as_it_is(conversation, conversation.tokens))
            elif isinstance(texts, list):
                outcomes.append(self._finish(conversation, texts, [next(encoded) for _ in texts]))
            else:
                outcomes.append(Outcome(problem=texts))
        return outcomes

    def _render(self, conversation: Conversation, unroll: bool = False) -> list[Rendered] | SftError:
        try:
            opened = self._texts.opened(conversation)
            if problem := self._texts.mistake(opened.conversation):
                return problem
            texts = self.renderer_of(opened.conversation).render(shaped(opened.conversation, self._data), unroll)
            remarks = self._texts.remarks(opened)
            return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts
        except TemplateRefusal as refusal:
            return self._refused(conversation, refusal)

    @cached_property
    def _num_ids(self) -> int:
        """The tokenizer's ids are below this."""
        return max(self._tokenizer.backend.get_vocab().values()) + 1

    def _as_it_is(self, conversation: Conversation, tokens: TokenIds) -> Outcome:
        """The example of a row of token ids."""
        try:
            weights = checked(tokens, self._num_ids)
        except Unusable as unusable:
            problem = f"its token ids cannot be trained on: {unusable}"
            fix = "prepare the row with this tokenizer, or leave such rows out with data.on_bad_row=drop"
            return Outcome(problem=SftError(where=conversation.where, problem=problem, fix=fix))
        example = Example(tokens.input_ids, weights, conversation.where, conversation.source)
        proven = Proven(example, tuple(runs(weights)) if len(weights) > self._max_length else ())
        stops = frozenset(text for text, id in self._tokenizer.control.items() if id == tokens.input_ids[-1])
        outcome = self._fitting(conversation, [proven], stops if weights[-1] else frozenset())
        if outcome.problem is None and not self._split_documents:
            kept = without_open_turn(proven, len(outcome.examples[0].input_ids))
            if without_stop(kept, frozenset(self._tokenizer.control.values())):
                return replace(outcome, remarks=outcome.remarks | {"no_stop"})
        return outcome

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
                return Outcome(problem=self._refused(conversation, TemplateRefusal(str(ids))))
            examples.append(Proven(_example(conversation, text, ids), ids.spans))
        remarks = frozenset(["sanitized"] if any(MARK_START in text.text for text in texts) else [])
        remarks = remarks.union(*(text.remarks for text in texts))
        stops = frozenset([stop for text in texts for stop in text.stops])
        return self._fitting(conversation, examples, stops, remarks)

    def _fitting(
        self,
        row: Conversation,
        proven: Sequence[Proven],
        stops: frozenset[str],
        remarks: frozenset[str] = frozenset(),
    ) -> Outcome:
        """The outcome with the examples, a long document in pieces, a long row truncated; without them if refused."""
        examples = tuple(one.example for one in proven)
        longest, num_pieces, cut = max(len(example.input_ids) for example in examples), 0, 0
        least = longest
        if longest > self._max_length:
            least = min(one.first_trained for one in proven)
            if row.text is not None and self._split_documents:
                examples = tuple(pieces(examples[0], self._max_length))
                num_pieces, longest = len(examples), self._max_length
            elif self._data.overflow is Overflow.truncate and least <= self._max_length:
                left = truncate(proven, self._max_length)
                examples, cut = left.examples, left.tokens
                stops, remarks = self._trained(stops, examples), remarks | ({CUT_ANSWER} if left.is_open else set())
            else:
                return self._too_long(row, longest, least)
        if self._loss_weight != 1:
            examples = tuple(_weighted(example, self._loss_weight) for example in examples)
        return Outcome(
            examples,
            remarks=remarks,
            stops=stops,
            pieces=num_pieces,
            longest=longest,
            least=least,
            truncated_tokens=cut,
        )

    def _trained(self, stops: frozenset[str], examples: Sequence[Example]) -> frozenset[str]:
        """Those of the stop tokens that are still trained."""
        ids = {id for one in examples for id, weight in zip(one.input_ids, one.weights, strict=True) if weight}
        return frozenset(stop for stop in stops if self._tokenizer.control.get(stop) in ids)

    def _shortened(self, conversation: Conversation, outcome: Outcome) -> Outcome:
        """What becomes of it without as few of its oldest turns as make it fit; ``outcome`` if that never does."""
        conversation, stops = self._texts.opened(conversation)
        shorter = _without_oldest_turns(conversation)
        remarks = frozenset(["own_stop"] if stops else [])
        low, high = 0, len(shorter)
        while low < high:
            middle = (low + high) // 2
            tried = self._encoded([shorter[middle]])[0]
            if tried.problem is None:
                gone = len(conversation.messages) - len(shorter[middle].messages)
                high, outcome = middle, replace(tried, dropped_messages=gone, remarks=tried.remarks | remarks)
            else:
                low = middle + 1
        return outcome

    def _too_long(self, conversation: Conversation, longest: int, least: int) -> Outcome:
        """The outcome of a row that is longer than the longest example."""
        problem = f"{longest} tokens, longer than trainer.max_length={self._max_length}"
        overflow, choices = self._data.overflow, ["drop"]
        if overflow is Overflow.error:
            choices += ["drop_oldest_turns"] * bool(conversation.messages)
            choices += ["truncate"] * (least <= self._max_length)
        elif overflow is Overflow.truncate:
            problem += f", and the first token that carries loss is number {least}: truncation would leave none"
        error = SftError(
            where=conversation.where,
            problem=problem,
            fix=f"raise trainer.max_length, or data.overflow={' or '.join(choices)}",
        )
        all_cut = overflow is Overflow.truncate
        return Outcome(problem=error, too_long=True, all_cut=all_cut, longest=longest, least=least)

    def _refused(self, conversation: Conversation, why: TemplateRefusal) -> SftError:
        keeps = self._data.thinking is not Thinking.strip
        reasons = keeps and any(
            reasoning_blocks.texts({"content": m.content, **m.extra}) for m in conversation.messages
        )
        first = why.fix.replace("{source}", conversation.source)
        first = first or (
            "set data.thinking=strip (its reasoning may be what the template cannot show)" if reasons else ""
        )
        template = self._template.for_tools if conversation.tools else self._template
        held = frozenset([Holds.of(conversation, reasoning=keeps)] if conversation.messages else [])
        if others := self.template_check.fitting(held):
            choice = f"choose template={', '.join(others)}"
        else:
            names = together(held) or "all of it"
            choice = f"name a template that shows {names} with template.path=FILE.jinja"
        return SftError(
            where=conversation.where,
            problem=f"its mask cannot be proven with {template.label}: {why}",
            fix=f"{first or 'correct the row'}, {choice}, or leave such rows out with data.on_bad_row=drop",
        )


def _example(conversation: Conversation, text: Rendered, encoded: Encoded) -> Example:
    """Ids and per-id weights, cut behind the last trained id: nothing depends on what follows."""
    weights: list[float] = []
    for (start, end), span in zip(encoded.spans, text.spans, strict=True):
        weights += [0.0] * (start - len(weights)) + [span.weight] * (end - start)
    for start, end in encoded.muted:
        weights[start:end] = [0.0] * (end - start)
    for start, end in encoded.results:
        weights[start:end] = [1.0] * (end - start)
    weights[0] = 0.0  # nothing predicts the first token
    return Example(tuple(encoded.input_ids[: len(weights)]), tuple(weights), conversation.where, conversation.source)


def _weighted(example: Example, factor: float) -> Example:
    """The example with every weight multiplied."""
    return replace(example, weights=tuple(weight * factor for weight in example.weights))


def _without_oldest_turns(conversation: Conversation) -> list[Conversation]:
    """The conversation without its first exchange, its first two …, the last one left; system message kept."""
    messages = conversation.messages
    head = 1 if messages and messages[0].role == "system" else 0
    users = [i for i in range(head + 1, len(messages)) if messages[i].role == "user"]
    trained = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]
    return [replace(conversation, messages=messages[:head] + messages[i:]) for i in users if i < trained[-1]]
