"""Find the trained parts: character spans of the rendered text.

For assistant turn i, let P be the prompt that a server would send for it, and Q the text up to and including the turn
(serving_text.py). The span is the text of Q after P, up to and including the stop token: exactly what the model must
generate. Where the Q of an earlier turn is not a prefix of the later text (Qwen3 drops earlier reasoning), one
rendering cannot serve all turns, and the conversation is unrolled: one text per trained turn, each as it is served.
Tool results and user texts can be trained as well (prompt_texts.py).

Every text is checked: it must show the content of each message once and in its turn (coverage.py).
Special-token strings inside messages are marked before rendering (sentinels.py); ``RenderedText.text`` keeps the marks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

from sft_cli.chat.masks.content_check import missing_content
from sft_cli.chat.masks.coverage import CoverageChecker
from sft_cli.chat.masks.coverage_rules import TrainedAnswer
from sft_cli.chat.masks.no_loss_spans import NoLossFinder
from sft_cli.chat.masks.prompt_texts import add_prompt_ranges, trained_prompt_texts
from sft_cli.chat.masks.rendered_text import RenderedText, TrainedSpan, merge_turns, text_outside
from sft_cli.chat.masks.sentinels import SentinelMarker
from sft_cli.chat.masks.serving_text import MarkedConversation, ServingRenderer
from sft_cli.chat.masks.stop_tokens import StopTokenFinder
from sft_cli.chat.masks.text_plans import TextPlanner
from sft_cli.chat.masks.text_positions import Trace
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_variants import (
    ConversationVariant,
    client_message,
    conversation_variants,
    try_variants,
)
from sft_cli.chat.template.reasoning_format import reasoning_formats
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Conversation, Message

Turn = tuple[int, RenderedText]
"""Index of a trained message, and the text up to and including it; its one span is the turn."""
MAX_SHAPES = 4096
"""Number of conversation shapes for which the trained turns are cached."""


class _MessageShape(NamedTuple):
    """What decides, with the data config, whether a message is trained."""

    role: str
    weight: float
    calls_tools: bool


Shape = tuple[_MessageShape, ...]
"""The shapes of the messages of a conversation, in order."""


class SpanFinder:
    """Render conversations and find their trained spans, with one template, one tokenizer and one data config."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, data: DataConfig) -> None:
        self.template, self._train_on, self._train_on_calls = template, data.train_on, data.train_on_tool_calls
        self._prompt_texts = trained_prompt_texts(data)
        self._marker, self._no_loss_finder = SentinelMarker(tokenizer, data.sanitize), NoLossFinder(data)
        self._serving = ServingRenderer(template, self._marker)
        self._stop_token_finder = StopTokenFinder(template, self._marker)
        self._coverage = CoverageChecker()
        # A plan knows the ends of answers. Other ranges are found in each text.
        has_plans = not (self._prompt_texts or self._no_loss_finder.is_active or data.train_on is TrainOn.all)
        self._planner = TextPlanner(template, self._marker) if has_plans else None
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        self._bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""

    def render(self, conversation: Conversation, unroll: bool = False) -> list[RenderedText]:
        """Return one text, or one per trained turn if the template rewrites history or ``unroll`` is set.

        Raises:
            RenderError: The mask cannot be proven; the message gives the reason.
        """
        if conversation.text is not None:
            return [self._document(conversation.text)]
        if unroll or self._planner is None:
            return self._render_variants(conversation, unroll)
        if (planned := self._planner.text(conversation)) is not None:
            return [planned]
        texts = self._render_variants(conversation, unroll)
        self._planner.learn(conversation, texts, partial(self._trained_indices, conversation.messages))
        return texts

    def _render_variants(self, conversation: Conversation, unroll: bool) -> list[RenderedText]:
        """Return the texts of the first variant of a conversation that the template accepts."""
        return try_variants(self._variants(conversation), lambda variant: self._rendered(variant, unroll))

    def serving_prompt(self, conversation: Conversation) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
        """Return the prompt of the last trained turn, and the messages and tools that a client sends to get it."""

        def read(variant: ConversationVariant) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
            """Return the prompt, the client's messages and the tools of a variant."""
            conversation = variant.conversation
            i, turn = self._checked_turns(conversation, unroll=True)[-1][-1]
            messages = [client_message(message) for message in conversation.messages[:i]]
            return turn.text[: turn.spans[0].start], messages, list(conversation.tools) if conversation.tools else None

        return try_variants(self._variants(conversation), read)

    def _variants(self, conversation: Conversation) -> Iterator[ConversationVariant]:
        """Yield the variants in which a client may send the conversation."""
        return conversation_variants(conversation, lambda: self._reasoning_formats)

    @cached_property
    def _reasoning_formats(self) -> tuple[str, ...]:
        """The places from which the template reads reasoning, the best first."""
        return reasoning_formats(self.template)

    def _rendered(self, variant: ConversationVariant, unroll: bool) -> list[RenderedText]:
        """Return the texts of a variant of a conversation."""
        conversation = variant.conversation
        remarks = _shape_remarks(_shape(conversation.messages), self._train_on).union(variant.remarks)
        groups = self._checked_turns(conversation, unroll)
        if self.template.writes_date:
            remarks |= {"dated"}
        if self._train_on is TrainOn.all:
            turns = [turn for group in groups for _, turn in group]
            return [
                RenderedText(turn.text, (TrainedSpan(0, len(turn.text), 1.0),), turn.stop_tokens, remarks=remarks)
                for turn in turns
            ]
        texts = [group[0][1] if len(group) == 1 else merge_turns([turn for _, turn in group]) for group in groups]
        return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts

    def _checked_turns(self, conversation: Conversation, unroll: bool) -> list[list[Turn]]:
        """Return the trained turns of a conversation, in groups that share one text, after the coverage check."""
        talk, turns = self._lay_out(conversation)
        last = turns[-1][1].text
        is_one_text = not unroll and all(last.startswith(turn.text) for _, turn in turns)
        groups = [turns] if is_one_text else [[turn] for turn in turns]
        for group in groups:
            self._check_coverage(talk, group)
        return groups

    def _check_coverage(self, talk: MarkedConversation, turns: Sequence[Turn]) -> None:
        """Reject a text that does not show every message of the conversation once and in its place."""
        last_index, last_turn = turns[-1]
        answers = [
            TrainedAnswer(i, turn.spans[0].start, turn.spans[0].end - len(turn.stop_tokens[0])) for i, turn in turns
        ]

        def render(trace: Trace) -> str:
            return self._serving.traced_text(talk, last_index, trace, last_turn.text)

        self._coverage.check(last_turn.text, answers, talk.messages, talk.tools, render)

    def _lay_out(self, conversation: Conversation) -> tuple[MarkedConversation, list[Turn]]:
        """Return the conversation as the template reads it, and each turn that carries loss."""
        trained = self._trained_indices(conversation.messages)
        talk = self._serving.mark(conversation, trained[-1] + 1)
        turns = [(i, turn) for i in trained if (turn := self._turn(talk, i)) is not None]
        if not turns:
            raise RenderError("no assistant turn carries loss (all their text is excluded from the loss)")
        if self._prompt_texts:
            render = partial(self.template.render, tools=talk.tools, prompt=True)
            turns = add_prompt_ranges(turns, conversation.messages, talk.messages, render, self._prompt_texts)
        return talk, turns

    def _trained_indices(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the indices of the turns that carry loss; with ``train_on=all``, that of the last answer."""
        trained = _trained_turns(_shape(messages), self._train_on, self._train_on_calls)
        for i in trained:
            if reasoning_blocks.has_unclosed_block(messages[i].content):
                raise RenderError(f"message {i + 1} (assistant) opens <think> and never closes it (a cut answer?)")
        return trained

    def _document(self, text: str) -> RenderedText:
        """Return the text of a plain document: all of it is trained, followed by the eos token."""
        if not self._eos:
            raise RenderError("the tokenizer has no eos_token to end a document with")
        marked = self._bos + self._marker.mark(text) + self._eos
        return RenderedText(marked, (TrainedSpan(len(self._bos), len(marked), 1.0),), (self._eos,))

    def _turn(self, talk: MarkedConversation, i: int) -> RenderedText | None:
        """Return the text up to and including assistant turn i, its one span; None if none of it carries loss."""
        message = talk.source_messages[i]
        prompt = self._serving.prompt(talk, i)
        text = self._serving.turn_text(talk, i, prompt)
        stop, end = self._stop_token_finder.find(text, len(prompt))
        control_tokens = (match.group() for match in self._marker.find_control_tokens(text, len(prompt), end))
        if text.count(stop, len(prompt), end) > 1 and list(control_tokens).count(stop) > 1:
            raise RenderError(f"the template writes the stop token {stop!r} inside message {i + 1} (assistant) as well")
        generation_text = self.template.generation_text(talk.messages[: i + 1], talk.tools)
        if generation_text is not None and missing_content(talk.messages[i], generation_text):
            raise RenderError("the template's own {% generation %} tags do not contain the assistant's text")
        answer = len(prompt), end - len(stop)
        no_loss: tuple[tuple[int, int], ...] = ()
        if self._no_loss_finder.is_active:
            render = partial(self._serving.changed_text, talk, i, prompt)
            no_loss = self._no_loss_finder.find(message, talk.messages[i], text, answer, render)
        if no_loss and not text_outside(text, answer, no_loss).strip():
            return None
        empty_block = reasoning_blocks.empty_block(text, *answer)
        has_reasoning = empty_block and reasoning_blocks.reasoning_texts(talk.messages[i])
        remarks = frozenset(["empty_reasoning"] if empty_block and not has_reasoning else [])
        span = TrainedSpan(len(prompt), end, message.weight)
        return RenderedText(text[:end], (span,), (stop,), no_loss, remarks=remarks)


def _shape(messages: Sequence[Message]) -> Shape:
    """Return the shape of a conversation."""
    return tuple([_MessageShape(m.role, m.weight, bool(m.extra and m.extra.get("tool_calls"))) for m in messages])


@lru_cache(MAX_SHAPES)
def _shape_remarks(shape: Shape, train_on: TrainOn) -> frozenset[str]:
    """Return the remarks (keys of data/remarks.py) about a shape; reject weights that have no meaning."""
    for i, (role, weight, _) in enumerate(shape):
        if role != "assistant" and weight not in (0, 1):
            raise RenderError(f"a {role} message has weight {weight:g}; only assistant turns are weighted")
        if train_on is TrainOn.all and weight != 1:
            raise RenderError(f"message {i + 1} has weight {weight:g}, but data.train_on=all trains all of them")
    first_role = next((message.role for message in shape if message.role != "system"), None)
    remarks = ["assistant_first"] if first_role == "assistant" else []
    return frozenset([*remarks, "unanswered"] if shape and shape[-1].role != "assistant" else remarks)


@lru_cache(MAX_SHAPES)
def _trained_turns(shape: Shape, train_on: TrainOn, train_on_calls: bool) -> tuple[int, ...]:
    """Return the indices of the turns that carry loss by the shape of a conversation."""
    first_question = next((i for i, message in enumerate(shape) if message.role in ("user", "tool")), len(shape))
    trained = [i for i, message in enumerate(shape) if message.role == "assistant" and i > first_question]
    if not trained and any(message.role == "assistant" for message in shape):
        raise RenderError("no assistant turn carries loss: none answers a user message")
    if train_on in (TrainOn.last, TrainOn.all):
        trained = trained[-1:]
    trained = [i for i in trained if shape[i].weight > 0]
    if not trained:
        raise RenderError("no assistant turn carries loss (no such turn, or all weights are 0)")
    if not train_on_calls:
        trained = [i for i in trained if not shape[i].calls_tools]
    if not trained:
        raise RenderError("no assistant turn carries loss (all call tools, data.train_on_tool_calls is false)")
    return tuple(trained)
