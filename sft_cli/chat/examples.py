"""Build verified examples from rows: render, encode, verify, unroll rewritten history, apply the length policy.

Documents may be split into pieces; rows of token ids are used as they are. The length policy (length_policy.py) is
applied after the verification of the whole row.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from sft_cli.chat.documents import InvalidTokenIds, lacks_stop_token, validate_token_ids
from sft_cli.chat.encode import EncodedText, Encoder, MaskNotProven
from sft_cli.chat.encode_result import EncodeResult
from sft_cli.chat.length_policy import LengthPolicy
from sft_cli.chat.masks.rendered_text import RenderedText
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.masks.spans import SpanFinder
from sft_cli.chat.row_texts import RowTextParser
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.conversation_features import ConversationFeatures, describe_features
from sft_cli.chat.template.normalize import normalize_conversation, rule_errors
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.chat.truncation import ProvenExample, trained_ranges, without_cut_turn
from sft_cli.config.schema.data import DataConfig, Overflow, Thinking
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Example, TokenIds


class ExampleBuilder:
    """Build examples with one tokenizer, one template and one data config.

    Args:
        tokenizer: The tokenizer.
        template: The chat template.
        data: The data config.
        max_length: Length of the longest example, in tokens.
        split_documents: Whether longer documents are split into pieces (LM replay); otherwise data.overflow decides.
        loss_weight: Factor on every weight.

    Raises:
        SftError: The rules of the data config contradict each other.
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
        self._row_texts = RowTextParser(template, tokenizer, data)
        self._tokenizer, self._template, self._data = tokenizer, template, data
        self._length_policy = LengthPolicy(max_length, data.overflow, split_documents, tokenizer.control_tokens)
        self._loss_weight = loss_weight

    def span_finder_for(self, conversation: Conversation) -> SpanFinder:
        """Return the span finder for a conversation: a tokenizer may have a separate template for tools."""
        return self._tool_span_finder if conversation.tools else self.span_finder

    @cached_property
    def template_check(self) -> TemplateCheck:
        """The check of the template: run it before rows are rejected; it also lists other templates that fit."""
        return TemplateCheck(self._tokenizer, self._template, self._data)

    def normalize(self, conversation: Conversation) -> Conversation:
        """Return the conversation as it is rendered: with the system message and reasoning rules applied.

        Raises:
            RenderError: The rules leave nothing of a message, or a rendered text cannot be split.
        """
        return normalize_conversation(self._row_texts.parse(conversation).conversation, self._data)

    def build(self, conversations: Sequence[Conversation]) -> list[EncodeResult]:
        """Return the examples of each conversation, or the reason why there are none."""
        results = self._encode(conversations)
        if self._data.overflow is Overflow.drop_oldest_turns:
            pairs = zip(conversations, results, strict=True)
            results = [self._drop_oldest_turns(row, result) if result.too_long else result for row, result in pairs]
        return results

    def _encode(self, conversations: Sequence[Conversation]) -> list[EncodeResult]:
        """Return the examples of each conversation without dropping turns, or the reason why there are none."""
        rendered = [
            [] if conversation.tokens is not None else self._render(conversation) for conversation in conversations
        ]
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

    def _encode_one(self, conversation: Conversation) -> EncodeResult:
        return self._encode([conversation])[0]

    def _render(self, conversation: Conversation, unroll: bool = False) -> list[RenderedText] | SftError:
        try:
            row = self._row_texts.parse(conversation)
            if problem := self._row_texts.find_error(row.conversation):
                return problem
            texts = self.span_finder_for(row.conversation).render(
                normalize_conversation(row.conversation, self._data), unroll
            )
            remarks = self._row_texts.remarks(row)
            return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts
        except RenderError as error:
            return self._bad_row(conversation, error)

    @cached_property
    def _vocab_size(self) -> int:
        """One more than the tokenizer's largest id."""
        return max(self._tokenizer.backend.get_vocab().values()) + 1

    def _from_token_ids(self, conversation: Conversation, tokens: TokenIds) -> EncodeResult:
        """Return the example of a row of token ids."""
        try:
            weights = validate_token_ids(tokens, self._vocab_size)
        except InvalidTokenIds as invalid:
            problem = f"its token ids cannot be trained on: {invalid}"
            fix = "prepare the row with this tokenizer"
            return EncodeResult(problem=SftError(where=conversation.where, problem=problem, fix=fix))
        example = Example(tokens.input_ids, weights, conversation.where, conversation.source)
        proven = ProvenExample(
            example, tuple(trained_ranges(weights)) if len(weights) > self._length_policy.max_length else ()
        )
        stops = frozenset(text for text, id in self._tokenizer.control_tokens.items() if id == tokens.input_ids[-1])
        result = self._finish(conversation, [proven], stops if weights[-1] else frozenset())
        if result.problem is None and not self._length_policy.split_documents:
            kept = without_cut_turn(proven, len(result.examples[0].input_ids))
            if lacks_stop_token(kept, frozenset(self._tokenizer.control_tokens.values())):
                return replace(result, remarks=result.remarks | {"no_stop"})
        return result

    def _from_texts(
        self, conversation: Conversation, texts: list[RenderedText], encoded: list[EncodedText | MaskNotProven | None]
    ) -> EncodeResult:
        """Combine texts and ids into examples; unroll first if needed."""
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
        remarks = frozenset().union(*[text.remarks for text in texts])
        if any(MARK_START in text.text for text in texts):
            remarks |= {"sanitized"}
        stops = frozenset([stop for text in texts for stop in text.stop_tokens])
        return self._finish(conversation, examples, stops, remarks)

    def _finish(
        self,
        row: Conversation,
        proven: Sequence[ProvenExample],
        stop_tokens: frozenset[str],
        remarks: frozenset[str] = frozenset(),
    ) -> EncodeResult:
        """Apply the length policy and the loss weight to the verified examples of a row.

        Args:
            row: The row.
            proven: Its verified examples.
            stop_tokens: Stop tokens that end its trained turns.
            remarks: Keys of data/remarks.py.
        """
        result = self._length_policy.apply(row, proven, stop_tokens, remarks)
        if self._loss_weight == 1:
            return result
        return replace(
            result, examples=tuple(_scale_weights(example, self._loss_weight) for example in result.examples)
        )

    def _drop_oldest_turns(self, conversation: Conversation, result: EncodeResult) -> EncodeResult:
        """Drop as few of the oldest turns as make the conversation fit; ``result`` if it never fits."""
        row = self._row_texts.parse(conversation)
        shorter = self._length_policy.drop_oldest_turns(row.conversation, result, self._encode_one)
        if shorter.problem is not None or not row.removed_stops:
            return shorter
        return replace(shorter, remarks=shorter.remarks | {"own_stop"})

    def _bad_row(self, conversation: Conversation, error: RenderError) -> SftError:
        keeps_reasoning = self._data.thinking is not Thinking.strip
        has_reasoning = keeps_reasoning and any(
            reasoning_blocks.reasoning_texts({"content": m.content, **m.extra}) for m in conversation.messages
        )
        advice = error.fix.replace("{source}", conversation.source)
        advice = advice or (
            "set data.thinking=strip (the template may not render its reasoning)" if has_reasoning else ""
        )
        template = self._template.for_tools if conversation.tools else self._template
        features = frozenset(
            [ConversationFeatures.from_conversation(conversation, reasoning=keeps_reasoning)]
            if conversation.messages
            else []
        )
        if others := self.template_check.fitting_templates(features):
            more = f"  # or {', '.join(others[1:])}" if others[1:] else ""
            choice = f"template={others[0]}{more}"
        else:
            names = describe_features(features) or "all of it"
            choice = f"template.path=FILE.jinja  # a template that shows {names}"
        return SftError(
            where=conversation.where,
            problem=f"its mask cannot be proven with {template.label}: {error}",
            fix=f"{advice or 'correct the row'}\n{choice}",
        )


def _example(conversation: Conversation, text: RenderedText, encoded: EncodedText) -> Example:
    """Build an example from ids and weights, cut after the last trained id: no loss depends on later ids."""
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
    """Return the example with every weight multiplied."""
    return replace(example, weights=tuple(weight * factor for weight in example.weights))
