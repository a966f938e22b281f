"""What is trained: character spans of the rendered text.

For assistant turn i, P = the prompt a server would send for it, Q = the text up to and with the turn. The span is the
text of Q after P, cut after the stop token: exactly what the model must generate. Where an earlier turn's Q is not a
prefix of the later text (Qwen3 drops earlier reasoning), one rendering cannot serve all turns and the conversation is
unrolled: one text per trained turn, each as it would be served.
What tools answered trains as well where it is asked for (chat/masks/tool_results.py).

Every text is accounted for: it shows what each message says, once and in its turn (chat/masks/coverage.py).
Special-token strings inside messages are marked before rendering (sentinels.py); the marks stay in ``Rendered.text``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from sft_cli.chat.masks.content_check import check_calls, python_arguments, unsaid
from sft_cli.chat.masks.coverage import Account
from sft_cli.chat.masks.coverage_rules import Answer
from sft_cli.chat.masks.rendered_text import Rendered, Span, joined, outside
from sft_cli.chat.masks.sentinels import MARK_END, MARK_START, Marker
from sft_cli.chat.masks.stop_tokens import PROBE, Stops, parting
from sft_cli.chat.masks.text_positions import Trace
from sft_cli.chat.masks.tool_results import beside, with_results
from sft_cli.chat.masks.untrained_spans import Muter
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.template.message_variants import Form, as_sent, forms, in_any_form
from sft_cli.chat.template.prefix_renderer import Walk, Walker
from sft_cli.chat.template.reasoning_format import reasoning_places
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Conversation, Message

__all__ = ["MARK_END", "MARK_START", "Rendered", "Renderer", "Span"]
Turn = tuple[int, Rendered]
"""Index of a trained message, and the text up to and with it; its one span is the turn."""


@dataclass(frozen=True, slots=True)
class _Talk:
    """A conversation as templates read it, its special-token strings marked.

    ``arguments`` holds the texts that would show tool arguments encoded twice, ``objects`` those that would show them
    as Python writes them, ``walk`` the texts already rendered.
    """

    said: tuple[Message, ...]
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    arguments: list[str]
    objects: list[str]
    walk: Walk | None


class Renderer:
    """Renders conversations with one template, one tokenizer's special tokens and one set of rules."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, data: DataConfig) -> None:
        self.template, self._train_on, self._calls = template, data.train_on, data.train_on_tool_calls
        self._beside = beside(data)
        self._marker, self._muter = Marker(tokenizer, data.sanitize), Muter(data)
        self._stops, self._walker = Stops(template, self._marker), Walker(template)
        self._account = Account()
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        self._bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""

    def render(self, conversation: Conversation, unroll: bool = False) -> list[Rendered]:
        """One text, or one per trained turn where the template rewrites history or ``unroll`` asks for it.

        Raises:
            TemplateRefusal: The mask cannot be proven; the message says why.
        """
        if conversation.text is not None:
            return [self._document(conversation.text)]
        return in_any_form(self._forms(conversation), lambda form: self._rendered(form, unroll))

    def served(self, conversation: Conversation) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
        """The prompt of the last trained turn, and the messages and tools a client sends to get it (nothing marked)."""

        def serve(form: Form) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
            sent = form.conversation
            i, turn = self._accounted(sent, unroll=True)[-1][-1]
            messages = [as_sent(message) for message in sent.messages[:i]]
            return turn.text[: turn.spans[0].start], messages, list(sent.tools) if sent.tools else None

        return in_any_form(self._forms(conversation), serve)

    def unprompted(self, probe: Conversation) -> str:
        """What is written before an answer but in no prompt because the template ignores ``add_generation_prompt``.

        Args:
            probe: A question and an answer that the template renders.
        """
        question, answer = ({"role": message.role, "content": message.content} for message in probe.messages)
        tools = list(probe.tools) if probe.tools else None
        bare, prompt = (self.template.render([question], tools, prompt=prompt) for prompt in (False, True))
        if bare != prompt or self._stops.tail:
            return ""
        text = self.template.render([question, answer], tools, prompt=False)
        if not text.startswith(prompt):
            text = reasoning_blocks.served(prompt, text, answer, 2) or text
        said = reasoning_blocks.block(answer["content"])
        first = answer["content"][said.start : said.end].strip() if said else answer["content"]
        return text[len(prompt) : text.find(first, len(prompt))].replace("<think>", "").strip()

    def _forms(self, conversation: Conversation) -> Iterator[Form]:
        """The forms in which a client may send the conversation."""
        return forms(conversation, lambda: self._reasoning_places)

    @cached_property
    def _reasoning_places(self) -> tuple[str, ...]:
        """Where the template reads reasoning, the best first."""
        return reasoning_places(self.template)

    def _rendered(self, form: Form, unroll: bool) -> list[Rendered]:
        """The texts of a form of a conversation."""
        conversation = form.conversation
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" and message.weight not in (0, 1):
                raise TemplateRefusal(
                    f"a {message.role} message has weight {message.weight:g}; only assistant turns are weighted"
                )
            if self._train_on is TrainOn.all and message.weight != 1:
                raise TemplateRefusal(
                    f"message {i + 1} has weight {message.weight:g}, but data.train_on=all trains all of them"
                )
        groups = self._accounted(conversation, unroll)
        remarks = set(form.remarks)
        if _greets(conversation.messages):
            remarks.add("assistant_first")
        if conversation.messages[-1].role != "assistant":
            remarks.add("unanswered")
        if self.template.writes_date:
            remarks.add("dated")
        if self._train_on is TrainOn.all:
            turns = [turn for group in groups for _, turn in group]
            return [
                Rendered(turn.text, (Span(0, len(turn.text), 1.0),), turn.stops, remarks=frozenset(remarks))
                for turn in turns
            ]
        texts = [group[0][1] if len(group) == 1 else joined([turn for _, turn in group]) for group in groups]
        return [replace(text, remarks=text.remarks | remarks) for text in texts] if remarks else texts

    def _accounted(self, conversation: Conversation, unroll: bool) -> list[list[Turn]]:
        """The trained turns of a conversation, in groups that one text serves, every text accounted for."""
        talk, turns = self._laid_out(conversation)
        last = turns[-1][1].text
        whole = not unroll and all(last.startswith(turn.text) for _, turn in turns)
        groups = [turns] if whole else [[turn] for turn in turns]
        for group in groups:
            self._check_account(talk, group)
        return groups

    def _check_account(self, talk: _Talk, turns: Sequence[Turn]) -> None:
        """Refuse a text that does not show every message of the conversation as it must."""
        last, final = turns[-1]
        answers = [Answer(i, turn.spans[0].start, turn.spans[0].end - len(turn.stops[0])) for i, turn in turns]

        def render(trace: Trace) -> str:
            text = self.template.render(trace.messages, trace.tools, prompt=False)
            if (found := trace.read(text)) and found[0].startswith(final.text):
                return text
            prompt = self.template.render(trace.messages[:last], trace.tools, prompt=True)
            signed = replace(talk, messages=trace.messages, tools=trace.tools, walk=None, arguments=[], objects=[])
            return self._whole(signed, trace.messages, prompt, text)

        self._account.check(final.text, answers, talk.messages, talk.tools, render)

    def _laid_out(self, conversation: Conversation) -> tuple[_Talk, list[Turn]]:
        """The conversation as the template reads it, and each turn that carries loss."""
        trained = self._trained(conversation)
        mark, said = self._marker.mark, conversation.messages
        plain = [self._marker.message(as_sent(message)) for message in said]
        tools = mark(conversation.tools) if conversation.tools else None
        arguments, walk = check_calls(plain), self._walker.walk(plain[: trained[-1] + 1], tools)
        talk = _Talk(said, plain, tools, arguments, python_arguments(plain), walk)
        if walk is not None:
            self._check(talk, str(walk.text(trained[-1] + 1, prompt=True)), plain)
        turns = [(i, turn) for i in trained if (turn := self._turn(talk, i)) is not None]
        if not turns:
            raise TemplateRefusal("no assistant turn carries loss (all that they say is muted)")
        if self._beside:
            render = partial(self.template.render, tools=tools, prompt=True)
            turns = with_results(turns, said, plain, render, self._beside)
        return talk, turns

    def _trained(self, conversation: Conversation) -> list[int]:
        """Indices of the turns that carry loss; with ``train_on=all`` the last answer stands for the whole text."""
        messages = conversation.messages
        asked = next((i for i, message in enumerate(messages) if message.role in ("user", "tool")), len(messages))
        trained = [i for i, message in enumerate(messages) if message.role == "assistant" and i > asked]
        if not trained and any(message.role == "assistant" for message in messages):
            raise TemplateRefusal("no assistant turn carries loss: none answers a user message")
        if self._train_on in (TrainOn.last, TrainOn.all):
            trained = trained[-1:]
        trained = [i for i in trained if messages[i].weight > 0]
        if not trained:
            raise TemplateRefusal("no assistant turn carries loss (no such turn, or all weights are 0)")
        if not self._calls:
            trained = [i for i in trained if not messages[i].extra.get("tool_calls")]
        if not trained:
            raise TemplateRefusal("no assistant turn carries loss (all call tools, data.train_on_tool_calls is false)")
        for i in trained:
            if reasoning_blocks.unclosed(messages[i].content):
                raise TemplateRefusal(f"message {i + 1} (assistant) opens <think> and never closes it (a cut answer?)")
        return trained

    def _document(self, text: str) -> Rendered:
        """A plain document: all of it trained, ended by the end-of-text token."""
        if not self._eos:
            raise TemplateRefusal("the tokenizer has no eos_token to end a document with")
        marked = self._bos + self._marker.mark(text) + self._eos
        return Rendered(marked, (Span(len(self._bos), len(marked), 1.0),), (self._eos,))

    def _turn(self, talk: _Talk, i: int) -> Rendered | None:
        """The text up to and with assistant turn i; its one span is the turn. None if all it says is muted."""
        said = talk.said[i]
        prompt = self._beginning(talk, i, prompt=True)
        text = self._whole(talk, talk.messages[: i + 1], prompt, self._beginning(talk, i + 1, prompt=False))
        stop, end = self._stops.find(text, len(prompt))
        written = (match.group() for match in self._marker.specials(text, len(prompt), end))
        if text.count(stop, len(prompt), end) > 1 and list(written).count(stop) > 1:
            raise TemplateRefusal(
                f"the template writes the stop token {stop!r} inside message {i + 1} (assistant) as well"
            )
        tagged = self.template.generated(talk.messages[: i + 1], talk.tools)
        if tagged is not None and unsaid(talk.messages[i], tagged):
            raise TemplateRefusal("the template's own {% generation %} tags do not hold what the assistant said")
        answer = len(prompt), end - len(stop)
        muted = self._muted(talk, i, prompt, text, answer) if self._muter.active else ()
        if muted and not outside(text, answer, muted).strip():
            return None
        empty = reasoning_blocks.empty_block(text, *answer) and not reasoning_blocks.texts(talk.messages[i])
        remarks = frozenset(["empty_reasoning"] if empty else [])
        return Rendered(text[:end], (Span(len(prompt), end, said.weight),), (stop,), muted, remarks=remarks)

    def _whole(self, talk: _Talk, messages: list[dict[str, Any]], prompt: str, text: str) -> str:
        """The text of the messages, beginning with what a server sends before the last one."""
        i = len(messages)
        if not text.startswith(prompt):
            served = reasoning_blocks.served(prompt, text, messages[-1], i)
            served = served or self._after_alone(talk, messages[-1], text, prompt)
            if served is None:
                raise TemplateRefusal(
                    f"what a server sends before message {i} (assistant) is not the beginning of the trained text"
                    f" (they part at {parting(prompt, text)!r})"
                )
            return served
        reasoning = reasoning_blocks.texts(messages[-1])
        reasoning_blocks.check_opened(prompt, text[len(prompt) :], bool(reasoning), i)
        if reasoning:
            reasoning_blocks.check_closed(prompt, messages[-1], i)
            if any(one not in text[len(prompt) :] for one in reasoning):
                return reasoning_blocks.served(prompt, text, messages[-1], i) or text
        return text

    def _after_alone(self, talk: _Talk, message: dict[str, Any], text: str, prompt: str) -> str | None:
        """The prompt with what the template writes after a one-turn prompt, if ``text`` ends in just that.

        Mistral shows the system message before the last question only while that is unanswered: the prompt is no
        beginning of the text, yet the answer is the same.
        """
        exchange = [PROBE[0], message]
        try:
            question, whole = self._text(talk, exchange[:1], prompt=True), self._text(talk, exchange, prompt=False)
        except TemplateRefusal:
            return None
        answer = whole[len(question) :]
        return prompt + answer if answer and whole.startswith(question) and text.endswith(answer) else None

    def _muted(
        self, talk: _Talk, i: int, prompt: str, text: str, answer: tuple[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """The ranges of turn i that carry no loss."""

        def render(message: dict[str, Any]) -> str:
            messages = [*talk.messages[:i], message]
            return self._whole(talk, messages, prompt, self._text(talk, messages, prompt=False))

        return self._muter.ranges(talk.said[i], talk.messages[i], text, answer, render)

    def _beginning(self, talk: _Talk, count: int, prompt: bool) -> str:
        """The rendered text of the first ``count`` messages; a walk's has been checked with the whole."""
        text = talk.walk.text(count, prompt) if talk.walk is not None else None
        return self._text(talk, talk.messages[:count], prompt) if text is None else text

    def _text(self, talk: _Talk, messages: list[dict[str, Any]], prompt: bool) -> str:
        """The rendered text, checked."""
        text = self.template.render(messages, talk.tools, prompt=prompt)
        self._check(talk, text, messages)
        return text

    def _check(self, talk: _Talk, text: str, messages: list[dict[str, Any]]) -> None:
        """Refuse a text in which the template broke a mark, or encoded tool arguments twice or as Python."""
        self._marker.check(text, messages, talk.tools)
        if any(arguments in text for arguments in talk.arguments):
            raise TemplateRefusal("the template encodes tool arguments that are JSON text a second time")
        if any(written in text for written in talk.objects):
            raise TemplateRefusal("the template writes tool arguments as Python does, not as JSON", unwritten=True)


def _greets(messages: Sequence[Message]) -> bool:
    """Whether an assistant speaks before any user does."""
    first = next((message.role for message in messages if message.role != "system"), None)
    return first == "assistant"
