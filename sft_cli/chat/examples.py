"""Conversations into proven examples: render, encode, unroll where history is rewritten, shorten what is too long.

Documents may be cut into pieces instead; rows of token ids are taken as they are. What data.overflow=truncate leaves of
a row is decided after the proof of the whole row (chat/truncation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sft_cli.chat.documents import InvalidTokenIds, lacks_stop_token, split_document, validate_token_ids
from sft_cli.chat.encode import EncodedText, Encoder, MaskNotProven
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.masks.spans import RenderedText, SpanFinder
from sft_cli.chat.row_texts import RowTextParser
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.conversation_features import ConversationFeatures, describe_features
from sft_cli.chat.template.normalize import normalize_conversation, rule_errors
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.chat.truncation import CUT_ANSWER, ProvenExample, trained_ranges, truncate, without_cut_turn
from sft_cli.config.schema.data import DataConfig, Overflow, Thinking
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Example, TokenIds


@dataclass(frozen=True, slots=True)
class EncodeResult:
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
    no_loss_left: bool = False
    dropped_messages: int = 0
    remarks: frozenset[str] = frozenset()
    stop_tokens: frozenset[str] = frozenset()
    num_pieces: int = 0
    max_tokens: int = 0
    min_length: int = 0
    truncated_tokens: int = 0


class ExampleBuilder:
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
        raise_all(rule_errors(data))
        self.span_finder = SpanFinder(template, tokenizer, data)
        self._tool_span_finder = SpanFinder(template.for_tools, tokenizer, data) if template.named else self.span_finder
        self.encoder = Encoder(tokenizer)
        self._texts = RowTextParser(template, tokenizer, data)
        self._tokenizer, self._template, self._data = tokenizer, template, data
        self._max_length, self._split_documents, self._loss_weight = max_length, split_documents, loss_weight

    def span_finder_for(self, conversation: Conversation) -> SpanFinder:
        """What lays out a conversation: a tokenizer may have a template of its own for those with tools."""
        return self._tool_span_finder if conversation.tools else self.span_finder

    @cached_property
    def template_check(self) -> TemplateCheck:
        """What tries the template before any row is blamed for it, and knows which others fit."""
        return TemplateCheck(self._tokenizer, self._template, self._data)

    def normalize(self, conversation: Conversation) -> Conversation:
        """The conversation as it is rendered: with the system message and the reasoning that the rules ask for.

        Raises:
            TemplateRefusal: The rules leave nothing of a message, or a rendered text cannot be split.
        """
        return normalize_conversation(self._texts.parse(conversation).conversation, self._data)

    def build(self, conversations: Sequence[Conversation]) -> list[EncodeResult]:
        """The examples of each conversation, or why there are none."""
        results = self._encode(conversations)
        if self._data.overflow is Overflow.drop_oldest_turns:
            pairs = zip(conversations, results, strict=True)
            results = [self._drop_oldest_turns(one, outcome) if outcome.too_long else outcome for one, outcome in pairs]
        return results

    def _encode(self, conversations: Sequence[Conversation]) -> list[EncodeResult]:
        """The examples of each conversation as it is, or why there are none."""
        rendered = [[] if one.tokens is not None else self._render(one) for one in conversations]
        encoded = iter(self.encoder.encode([text for texts in rendered if isinstance(texts, list) for text in texts]))
        results = []
        for conversation, texts in zip(conversations, rendered, strict=True):
            if conversation.tokens is not None:
                results.append(self._from_token_ids(conversation, conversation.tokens))
            elif isinstance(texts, list):
                results.append(self._from_texts(conversation, texts, [next(encoded) for _ in texts]))
            else:
                results.append(EncodeResult(problem=texts))
        return results

    def _render(self, conversation: Conversation, unroll: bool = False) -> list[RenderedText] | SftError:
        try:
            opened = self._texts.parse(conversation)
            if problem := self._texts.find_error(opened.conversation):
                return problem
            texts = self.span_finder_for(opened.conversation).render(
                normalize_conversation(opened.conversation, self._data), unroll
            )
            remarks = self._texts.remarks(opened)
            return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts
        except RenderError as refusal:
            return self._bad_row(conversation, refusal)

    @cached_property
    def _vocab_size(self) -> int:
        """The tokenizer's ids are below this."""
        return max(self._tokenizer.backend.get_vocab().values()) + 1

    def _from_token_ids(self, conversation: Conversation, tokens: TokenIds) -> EncodeResult:
        """The example of a row of token ids."""
        try:
            weights = validate_token_ids(tokens, self._vocab_size)
        except InvalidTokenIds as invalid:
            problem = f"its token ids cannot be trained on: {invalid}"
            fix = "prepare the row with this tokenizer, or leave such rows out with data.on_bad_row=drop"
            return EncodeResult(problem=SftError(where=conversation.where, problem=problem, fix=fix))
        example = Example(tokens.input_ids, weights, conversation.where, conversation.source)
        example_with_turns = ProvenExample(
            example, tuple(trained_ranges(weights)) if len(weights) > self._max_length else ()
        )
        stops = frozenset(text for text, id in self._tokenizer.control_tokens.items() if id == tokens.input_ids[-1])
        result = self._apply_length_policy(conversation, [example_with_turns], stops if weights[-1] else frozenset())
        if result.problem is None and not self._split_documents:
            kept = without_cut_turn(example_with_turns, len(result.examples[0].input_ids))
            if lacks_stop_token(kept, frozenset(self._tokenizer.control_tokens.values())):
                return replace(result, remarks=result.remarks | {"no_stop"})
        return result

    def _from_texts(
        self, conversation: Conversation, texts: list[RenderedText], encoded: list[EncodedText | MaskNotProven | None]
    ) -> EncodeResult:
        """Join texts and ids to examples; unroll first where needed."""
        if None in encoded:
            unrolled = self._render(conversation, unroll=True)
            if isinstance(unrolled, SftError):
                return EncodeResult(problem=unrolled)
            texts, encoded = unrolled, self.encoder.encode(unrolled)
        examples = []
        for text, ids in zip(texts, encoded, strict=True):
            assert ids is not None, "a text with one span is never unrolled"
            if isinstance(ids, MaskNotProven):
                return EncodeResult(problem=self._bad_row(conversation, RenderError(str(ids))))
            examples.append(ProvenExample(_example(conversation, text, ids), ids.spans))
        remarks = frozenset(["sanitized"] if any(MARK_START in text.text for text in texts) else [])
        remarks = remarks.union(*(text.remarks for text in texts))
        stops = frozenset([stop for text in texts for stop in text.stop_tokens])
        return self._apply_length_policy(conversation, examples, stops, remarks)

    def _apply_length_policy(
        self,
        row: Conversation,
        proven: Sequence[ProvenExample],
        stops: frozenset[str],
        remarks: frozenset[str] = frozenset(),
    ) -> EncodeResult:
        """The outcome with the examples, a long document in pieces, a long row truncated; without them if refused."""
        examples = tuple(one.example for one in proven)
        longest, num_pieces, cut = max(len(example.input_ids) for example in examples), 0, 0
        least = longest
        if longest > self._max_length:
            least = min(one.min_length for one in proven)
            if row.text is not None and self._split_documents:
                examples = tuple(split_document(examples[0], self._max_length))
                num_pieces, longest = len(examples), self._max_length
            elif self._data.overflow is Overflow.truncate and least <= self._max_length:
                left = truncate(proven, self._max_length)
                examples, cut = left.examples, left.removed_tokens
                stops, remarks = (
                    self._still_trained(stops, examples),
                    remarks | ({CUT_ANSWER} if left.cuts_answer else set()),
                )
            else:
                return self._too_long(row, longest, least)
        if self._loss_weight != 1:
            examples = tuple(_scale_weights(example, self._loss_weight) for example in examples)
        return EncodeResult(
            examples,
            remarks=remarks,
            stop_tokens=stops,
            num_pieces=num_pieces,
            max_tokens=longest,
            min_length=least,
            truncated_tokens=cut,
        )

    def _still_trained(self, stops: frozenset[str], examples: Sequence[Example]) -> frozenset[str]:
        """Those of the stop tokens that are still trained."""
        ids = {id for one in examples for id, weight in zip(one.input_ids, one.weights, strict=True) if weight}
        return frozenset(stop for stop in stops if self._tokenizer.control_tokens.get(stop) in ids)

    def _drop_oldest_turns(self, conversation: Conversation, result: EncodeResult) -> EncodeResult:
        """What becomes of it without as few of its oldest turns as make it fit; ``outcome`` if that never does."""
        conversation, stops = self._texts.parse(conversation)
        candidates = _without_oldest_exchanges(conversation)
        remarks = frozenset(["own_stop"] if stops else [])
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            attempt = self._encode([candidates[middle]])[0]
            if attempt.problem is None:
                num_dropped = len(conversation.messages) - len(candidates[middle].messages)
                high, result = middle, replace(attempt, dropped_messages=num_dropped, remarks=attempt.remarks | remarks)
            else:
                low = middle + 1
        return result

    def _too_long(self, conversation: Conversation, longest: int, least: int) -> EncodeResult:
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
        return EncodeResult(problem=error, too_long=True, no_loss_left=all_cut, max_tokens=longest, min_length=least)

    def _bad_row(self, conversation: Conversation, error: RenderError) -> SftError:
        keeps_reasoning = self._data.thinking is not Thinking.strip
        has_reasoning = keeps_reasoning and any(
            reasoning_blocks.reasoning_texts({"content": m.content, **m.extra}) for m in conversation.messages
        )
        first = error.fix.replace("{source}", conversation.source)
        first = first or (
            "set data.thinking=strip (its reasoning may be what the template cannot show)" if has_reasoning else ""
        )
        template = self._template.for_tools if conversation.tools else self._template
        held = frozenset(
            [ConversationFeatures.from_conversation(conversation, reasoning=keeps_reasoning)]
            if conversation.messages
            else []
        )
        if others := self.template_check.fitting_templates(held):
            choice = f"choose template={', '.join(others)}"
        else:
            names = describe_features(held) or "all of it"
            choice = f"name a template that shows {names} with template.path=FILE.jinja"
        return SftError(
            where=conversation.where,
            problem=f"its mask cannot be proven with {template.label}: {error}",
            fix=f"{first or 'correct the row'}, {choice}, or leave such rows out with data.on_bad_row=drop",
        )


def _example(conversation: Conversation, text: RenderedText, encoded: EncodedText) -> Example:
    """Ids and per-id weights, cut behind the last trained id: nothing depends on what follows."""
    weights: list[float] = []
    for (start, end), span in zip(encoded.spans, text.spans, strict=True):
        weights += [0.0] * (start - len(weights)) + [span.weight] * (end - start)
    for start, end in encoded.no_loss:
        weights[start:end] = [0.0] * (end - start)
    for start, end in encoded.prompt_ranges:
        weights[start:end] = [1.0] * (end - start)
    weights[0] = 0.0  # nothing predicts the first token
    return Example(tuple(encoded.input_ids[: len(weights)]), tuple(weights), conversation.where, conversation.source)


def _scale_weights(example: Example, factor: float) -> Example:
    """The example with every weight multiplied."""
    return replace(example, weights=tuple(weight * factor for weight in example.weights))


def _without_oldest_exchanges(conversation: Conversation) -> list[Conversation]:
    """The conversation without its first exchange, its first two …, the last one left; system message kept."""
    messages = conversation.messages
    num_system = 1 if messages and messages[0].role == "system" else 0
    user_indices = [i for i in range(num_system + 1, len(messages)) if messages[i].role == "user"]
    trained_indices = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]
    return [
        replace(conversation, messages=messages[:num_system] + messages[i:])
        for i in user_indices
        if i < trained_indices[-1]
    ]
