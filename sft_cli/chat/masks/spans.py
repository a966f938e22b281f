"""What is trained: character spans of the rendered text.

For assistant turn i, P = the prompt a server would send for it, Q = the text up to and with the turn. The span is the
text of Q after P, cut after the stop token: exactly what the model must generate. Where an earlier turn's Q is not a
prefix of the later text (Qwen3 drops earlier reasoning), one rendering cannot serve all turns and the conversation is
unrolled: one text per trained turn, each as it would be served.
What tools answered trains as well where it is asked for (chat/masks/prompt_texts.py).

Every text is accounted for: it shows what each message says, once and in its turn (chat/masks/coverage.py).
Special-token strings inside messages are marked before rendering (sentinels.py); the marks stay in ``Rendered.text``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from sft_cli.chat.masks.content_check import arguments_as_python, check_tool_calls, missing_content
from sft_cli.chat.masks.coverage import CoverageChecker
from sft_cli.chat.masks.coverage_rules import TrainedAnswer
from sft_cli.chat.masks.no_loss_spans import NoLossFinder
from sft_cli.chat.masks.prompt_texts import add_prompt_ranges, trained_prompt_texts
from sft_cli.chat.masks.rendered_text import RenderedText, TrainedSpan, merge_turns, text_outside
from sft_cli.chat.masks.sentinels import MARK_END, MARK_START, SentinelMarker
from sft_cli.chat.masks.stop_tokens import PROBE_EXCHANGE, StopTokenFinder, excerpt_at_difference
from sft_cli.chat.masks.text_positions import Trace
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_variants import ConversationVariant, client_message, try_variants, variants
from sft_cli.chat.template.prefix_renderer import PrefixRenderer, PrefixTexts
from sft_cli.chat.template.reasoning_format import reasoning_formats
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Conversation, Message

__all__ = ["MARK_END", "MARK_START", "RenderedText", "SpanFinder", "TrainedSpan"]
Turn = tuple[int, RenderedText]
"""Index of a trained message, and the text up to and with it; its one span is the turn."""


@dataclass(frozen=True, slots=True)
class _Talk:
    """A conversation as templates read it, its special-token strings marked.

    ``arguments`` holds the texts that would show tool arguments encoded twice, ``objects`` those that would show them
    as Python writes them, ``walk`` the texts already rendered.
    """

    source_messages: tuple[Message, ...]
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    encoded_arguments: list[str]
    python_arguments: list[str]
    prefixes: PrefixTexts | None


class SpanFinder:
    """Renders conversations with one template, one tokenizer's special tokens and one set of rules."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, data: DataConfig) -> None:
        self.template, self._train_on, self._calls = template, data.train_on, data.train_on_tool_calls
        self._prompt_texts = trained_prompt_texts(data)
        self._marker, self._no_loss_finder = SentinelMarker(tokenizer, data.sanitize), NoLossFinder(data)
        self._stop_token_finder, self._prefix_renderer = (
            StopTokenFinder(template, self._marker),
            PrefixRenderer(template),
        )
        self._coverage = CoverageChecker()
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        self._bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""

    def render(self, conversation: Conversation, unroll: bool = False) -> list[RenderedText]:
        """One text, or one per trained turn where the template rewrites history or ``unroll`` asks for it.

        Raises:
            TemplateRefusal: The mask cannot be proven; the message says why.
        """
        if conversation.text is not None:
            return [self._document(conversation.text)]
        return try_variants(self._variants(conversation), lambda form: self._rendered(form, unroll))

    def serving_prompt(self, conversation: Conversation) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
        """The prompt of the last trained turn, and the messages and tools a client sends to get it (nothing marked)."""

        def read(variant: ConversationVariant) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
            conversation = variant.conversation
            i, turn = self._checked_turns(conversation, unroll=True)[-1][-1]
            messages = [client_message(message) for message in conversation.messages[:i]]
            return turn.text[: turn.spans[0].start], messages, list(conversation.tools) if conversation.tools else None

        return try_variants(self._variants(conversation), read)

    def text_missing_from_prompt(self, probe: Conversation) -> str:
        """What is written before an answer but in no prompt because the template ignores ``add_generation_prompt``.

        Args:
            probe: A question and an answer that the template renders.
        """
        question, answer = ({"role": message.role, "content": message.content} for message in probe.messages)
        tools = list(probe.tools) if probe.tools else None
        without_prompt, prompt = (self.template.render([question], tools, prompt=prompt) for prompt in (False, True))
        if without_prompt != prompt or self._stop_token_finder.prompt_tail:
            return ""
        text = self.template.render([question, answer], tools, prompt=False)
        if not text.startswith(prompt):
            text = reasoning_blocks.serving_text(prompt, text, answer, 2) or text
        reasoning = reasoning_blocks.find_block(answer["content"])
        first_text = answer["content"][reasoning.start : reasoning.end].strip() if reasoning else answer["content"]
        return text[len(prompt) : text.find(first_text, len(prompt))].replace("<think>", "").strip()

    def _variants(self, conversation: Conversation) -> Iterator[ConversationVariant]:
        """The forms in which a client may send the conversation."""
        return variants(conversation, lambda: self._reasoning_formats)

    @cached_property
    def _reasoning_formats(self) -> tuple[str, ...]:
        """Where the template reads reasoning, the best first."""
        return reasoning_formats(self.template)

    def _rendered(self, variant: ConversationVariant, unroll: bool) -> list[RenderedText]:
        """The texts of a form of a conversation."""
        conversation = variant.conversation
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" and message.weight not in (0, 1):
                raise RenderError(
                    f"a {message.role} message has weight {message.weight:g}; only assistant turns are weighted"
                )
            if self._train_on is TrainOn.all and message.weight != 1:
                raise RenderError(
                    f"message {i + 1} has weight {message.weight:g}, but data.train_on=all trains all of them"
                )
        groups = self._checked_turns(conversation, unroll)
        remarks = set(variant.remarks)
        if _assistant_speaks_first(conversation.messages):
            remarks.add("assistant_first")
        if conversation.messages[-1].role != "assistant":
            remarks.add("unanswered")
        if self.template.writes_date:
            remarks.add("dated")
        if self._train_on is TrainOn.all:
            turns = [turn for group in groups for _, turn in group]
            return [
                RenderedText(
                    turn.text, (TrainedSpan(0, len(turn.text), 1.0),), turn.stop_tokens, remarks=frozenset(remarks)
                )
                for turn in turns
            ]
        texts = [group[0][1] if len(group) == 1 else merge_turns([turn for _, turn in group]) for group in groups]
        return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts

    def _checked_turns(self, conversation: Conversation, unroll: bool) -> list[list[Turn]]:
        """The trained turns of a conversation, in groups that one text serves, every text accounted for."""
        talk, turns = self._lay_out(conversation)
        last = turns[-1][1].text
        is_one_text = not unroll and all(last.startswith(turn.text) for _, turn in turns)
        groups = [turns] if is_one_text else [[turn] for turn in turns]
        for group in groups:
            self._check_coverage(talk, group)
        return groups

    def _check_coverage(self, talk: _Talk, turns: Sequence[Turn]) -> None:
        """Refuse a text that does not show every message of the conversation as it must."""
        last_index, last_turn = turns[-1]
        answers = [
            TrainedAnswer(i, turn.spans[0].start, turn.spans[0].end - len(turn.stop_tokens[0])) for i, turn in turns
        ]

        def render(trace: Trace) -> str:
            text = self.template.render(trace.messages, trace.tools, prompt=False)
            if (traced := trace.read(text)) and traced[0].startswith(last_turn.text):
                return text
            prompt = self.template.render(trace.messages[:last_index], trace.tools, prompt=True)
            traced_talk = replace(talk, messages=trace.messages, tools=trace.tools, walk=None, arguments=[], objects=[])
            return self._serving_text(traced_talk, trace.messages, prompt, text)

        self._coverage.check(last_turn.text, answers, talk.messages, talk.tools, render)

    def _lay_out(self, conversation: Conversation) -> tuple[_Talk, list[Turn]]:
        """The conversation as the template reads it, and each turn that carries loss."""
        trained = self._trained_indices(conversation)
        mark, messages = self._marker.mark, conversation.messages
        marked = [self._marker.mark_message(client_message(message)) for message in messages]
        tools = mark(conversation.tools) if conversation.tools else None
        arguments, prefixes = (
            check_tool_calls(marked),
            self._prefix_renderer.render_prefixes(marked[: trained[-1] + 1], tools),
        )
        talk = _Talk(messages, marked, tools, arguments, arguments_as_python(marked), prefixes)
        if prefixes is not None:
            self._check(talk, str(prefixes.text(trained[-1] + 1, prompt=True)), marked)
        turns = [(i, turn) for i in trained if (turn := self._turn(talk, i)) is not None]
        if not turns:
            raise RenderError("no assistant turn carries loss (all that they say is muted)")
        if self._prompt_texts:
            render = partial(self.template.render, tools=tools, prompt=True)
            turns = add_prompt_ranges(turns, messages, marked, render, self._prompt_texts)
        return talk, turns

    def _trained_indices(self, conversation: Conversation) -> list[int]:
        """Indices of the turns that carry loss; with ``train_on=all`` the last answer stands for the whole text."""
        messages = conversation.messages
        first_question = next(
            (i for i, message in enumerate(messages) if message.role in ("user", "tool")), len(messages)
        )
        trained = [i for i, message in enumerate(messages) if message.role == "assistant" and i > first_question]
        if not trained and any(message.role == "assistant" for message in messages):
            raise RenderError("no assistant turn carries loss: none answers a user message")
        if self._train_on in (TrainOn.last, TrainOn.all):
            trained = trained[-1:]
        trained = [i for i in trained if messages[i].weight > 0]
        if not trained:
            raise RenderError("no assistant turn carries loss (no such turn, or all weights are 0)")
        if not self._calls:
            trained = [i for i in trained if not messages[i].extra.get("tool_calls")]
        if not trained:
            raise RenderError("no assistant turn carries loss (all call tools, data.train_on_tool_calls is false)")
        for i in trained:
            if reasoning_blocks.has_unclosed_block(messages[i].content):
                raise RenderError(f"message {i + 1} (assistant) opens <think> and never closes it (a cut answer?)")
        return trained

    def _document(self, text: str) -> RenderedText:
        """A plain document: all of it trained, ended by the end-of-text token."""
        if not self._eos:
            raise RenderError("the tokenizer has no eos_token to end a document with")
        marked = self._bos + self._marker.mark(text) + self._eos
        return RenderedText(marked, (TrainedSpan(len(self._bos), len(marked), 1.0),), (self._eos,))

    def _turn(self, talk: _Talk, i: int) -> RenderedText | None:
        """The text up to and with assistant turn i; its one span is the turn. None if all it says is muted."""
        message = talk.source_messages[i]
        prompt = self._prefix(talk, i, prompt=True)
        text = self._serving_text(talk, talk.messages[: i + 1], prompt, self._prefix(talk, i + 1, prompt=False))
        stop, end = self._stop_token_finder.find(text, len(prompt))
        control_tokens = (match.group() for match in self._marker.find_control_tokens(text, len(prompt), end))
        if text.count(stop, len(prompt), end) > 1 and list(control_tokens).count(stop) > 1:
            raise RenderError(f"the template writes the stop token {stop!r} inside message {i + 1} (assistant) as well")
        generation_text = self.template.generation_text(talk.messages[: i + 1], talk.tools)
        if generation_text is not None and missing_content(talk.messages[i], generation_text):
            raise RenderError("the template's own {% generation %} tags do not hold what the assistant said")
        answer = len(prompt), end - len(stop)
        muted = self._no_loss_ranges(talk, i, prompt, text, answer) if self._no_loss_finder.is_active else ()
        if muted and not text_outside(text, answer, muted).strip():
            return None
        is_empty_block = reasoning_blocks.empty_block(text, *answer) and not reasoning_blocks.reasoning_texts(
            talk.messages[i]
        )
        remarks = frozenset(["empty_reasoning"] if is_empty_block else [])
        return RenderedText(
            text[:end], (TrainedSpan(len(prompt), end, message.weight),), (stop,), muted, remarks=remarks
        )

    def _serving_text(self, talk: _Talk, messages: list[dict[str, Any]], prompt: str, text: str) -> str:
        """The text of the messages, beginning with what a server sends before the last one."""
        i = len(messages)
        if not text.startswith(prompt):
            serving_text = reasoning_blocks.serving_text(prompt, text, messages[-1], i)
            serving_text = serving_text or self._after_lone_question(talk, messages[-1], text, prompt)
            if serving_text is None:
                raise RenderError(
                    f"what a server sends before message {i} (assistant) is not the beginning of the trained text"
                    f" (they part at {excerpt_at_difference(prompt, text)!r})"
                )
            return serving_text
        reasoning = reasoning_blocks.reasoning_texts(messages[-1])
        reasoning_blocks.check_opened(prompt, text[len(prompt) :], bool(reasoning), i)
        if reasoning:
            reasoning_blocks.check_closed(prompt, messages[-1], i)
            if any(one not in text[len(prompt) :] for one in reasoning):
                return reasoning_blocks.serving_text(prompt, text, messages[-1], i) or text
        return text

    def _after_lone_question(self, talk: _Talk, message: dict[str, Any], text: str, prompt: str) -> str | None:
        """The prompt with what the template writes after a one-turn prompt, if ``text`` ends in just that.

        Mistral shows the system message before the last question only while that is unanswered: the prompt is no
        beginning of the text, yet the answer is the same.
        """
        exchange = [PROBE_EXCHANGE[0], message]
        try:
            question, full_text = self._text(talk, exchange[:1], prompt=True), self._text(talk, exchange, prompt=False)
        except RenderError:
            return None
        answer = full_text[len(question) :]
        return prompt + answer if answer and full_text.startswith(question) and text.endswith(answer) else None

    def _no_loss_ranges(
        self, talk: _Talk, i: int, prompt: str, text: str, answer: tuple[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """The ranges of turn i that carry no loss."""

        def render(message: dict[str, Any]) -> str:
            messages = [*talk.messages[:i], message]
            return self._serving_text(talk, messages, prompt, self._text(talk, messages, prompt=False))

        return self._no_loss_finder.find(talk.source_messages[i], talk.messages[i], text, answer, render)

    def _prefix(self, talk: _Talk, count: int, prompt: bool) -> str:
        """The rendered text of the first ``count`` messages; a walk's has been checked with the whole."""
        text = talk.prefixes.text(count, prompt) if talk.prefixes is not None else None
        return self._text(talk, talk.messages[:count], prompt) if text is None else text

    def _text(self, talk: _Talk, messages: list[dict[str, Any]], prompt: bool) -> str:
        """The rendered text, checked."""
        text = self.template.render(messages, talk.tools, prompt=prompt)
        self._check(talk, text, messages)
        return text

    def _check(self, talk: _Talk, text: str, messages: list[dict[str, Any]]) -> None:
        """Refuse a text in which the template broke a mark, or encoded tool arguments twice or as Python."""
        self._marker.check_marks(text, messages, talk.tools)
        if any(arguments in text for arguments in talk.encoded_arguments):
            raise RenderError("the template encodes tool arguments that are JSON text a second time")
        if any(written in text for written in talk.python_arguments):
            raise RenderError("the template writes tool arguments as Python does, not as JSON", nothing_written=True)


def _assistant_speaks_first(messages: Sequence[Message]) -> bool:
    """Whether an assistant speaks before any user does."""
    first_role = next((message.role for message in messages if message.role != "system"), None)
    return first_role == "assistant"
