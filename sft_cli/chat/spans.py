"""What is trained: character spans of the rendered text.

For assistant turn i, P = the prompt a server would send for it, Q = the text up to and with the turn. The span is the
text of Q behind P, cut behind the stop token: exactly what the model must generate. Where an earlier turn's Q is not a
prefix of the later text (Qwen3 drops earlier reasoning), one rendering cannot serve all turns and the conversation is
unrolled: one text per trained turn, each as it would be served.

Before rendering, special-token strings inside messages are wrapped in two characters that Unicode sets aside for such
use, so that the encoder can tell them from the control tokens the template writes. The marks stay in ``Rendered.text``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sft_cli.chat.said import argument_texts, encoded_twice, in_either_form, unsaid
from sft_cli.chat.template import ChatTemplate, TemplateRefusal
from sft_cli.chat.tokenizer import ChatTokenizer
from sft_cli.config.schema import TrainOn
from sft_cli.data.types import Conversation, Message

MARK_START, MARK_END = "\ufdd0", "\ufdd1"
ESCAPED_MARK = "\\ufdd"
PROBE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a rendered text that are trained with ``weight``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and its trained spans, in order; the last span ends the text.

    ``stops`` names the stop token that ends each span.
    """

    text: str
    spans: tuple[Span, ...]
    stops: tuple[str, ...]


class Renderer:
    """Renders conversations with one template and one tokenizer's special tokens."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, train_on: TrainOn, sanitize: bool) -> None:
        self.template, self.train_on, self.sanitize = template, train_on, sanitize
        longest_first = sorted(tokenizer.control, key=len, reverse=True)
        control = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._control, self._marked = re.compile(control), re.compile(f"{MARK_START}(?:{control}){MARK_END}")
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        self._bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""

    def render(self, conversation: Conversation, unroll: bool = False) -> list[Rendered]:
        """One text, or one per trained turn where the template rewrites history or ``unroll`` asks for it.

        Raises:
            TemplateRefusal: The mask cannot be proven; the message says why.
        """
        if conversation.text is not None:
            return [self._document(conversation.text)]
        return in_either_form(conversation, lambda form: self._rendered(form, unroll))

    def served(self, conversation: Conversation) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
        """The prompt of the last trained turn, and the messages and tools a client sends to get it (nothing marked)."""

        def serve(form: Conversation) -> tuple[str, list[dict[str, Any]], list[Any] | None]:
            turn, i = self._turns(form)[-1], self._trained(form)[-1]
            messages = [{"role": m.role, "content": m.content, **m.extra} for m in form.messages[:i]]
            return turn.text[: turn.spans[0].start], messages, list(form.tools) if form.tools else None

        return in_either_form(conversation, serve)

    def _rendered(self, conversation: Conversation, unroll: bool) -> list[Rendered]:
        """The texts of a conversation of messages."""
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" and message.weight not in (0, 1):
                raise TemplateRefusal(
                    f"a {message.role} message has weight {message.weight:g}; only assistant turns are weighted"
                )
            if self.train_on is TrainOn.all and message.weight != 1:
                raise TemplateRefusal(
                    f"message {i + 1} has weight {message.weight:g}, but data.train_on=all trains all of them"
                )
        turns = self._turns(conversation)
        if self.train_on is TrainOn.all:
            return [Rendered(turn.text, (Span(0, len(turn.text), 1.0),), turn.stops) for turn in turns]
        return turns if unroll else _join(turns) or turns

    def _trained(self, conversation: Conversation) -> list[int]:
        """Indices of the turns that carry loss; with ``train_on=all`` the last answer stands for the whole text."""
        trained = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if self.train_on is not TrainOn.assistant:
            trained = trained[-1:]
        trained = [i for i in trained if conversation.messages[i].weight > 0]
        if not trained:
            raise TemplateRefusal("no assistant turn carries loss (no such turn, or all weights are 0)")
        return trained

    def _turns(self, conversation: Conversation) -> list[Rendered]:
        """One text per trained turn, up to and with it."""
        messages = [self._plain(message) for message in conversation.messages]
        tools = self._mark(conversation.tools) if conversation.tools else None
        return [self._turn(conversation.messages[i], messages, tools, i) for i in self._trained(conversation)]

    def _document(self, text: str) -> Rendered:
        """A plain document: all of it trained, ended by the end-of-text token."""
        if not self._eos:
            raise TemplateRefusal("the tokenizer has no eos_token to end a document with")
        marked = self._bos + self._mark(text) + self._eos
        return Rendered(marked, (Span(len(self._bos), len(marked), 1.0),), (self._eos,))

    def _turn(self, said: Message, messages: list[dict[str, Any]], tools: list[Any] | None, i: int) -> Rendered:
        """The text up to and with assistant turn i; its one span is the turn."""
        prompt = self._text(messages[:i], tools, prompt=True)
        text = self._text(messages[: i + 1], tools, prompt=False)
        marked = self.template.generated(messages[: i + 1], tools)
        if not text.startswith(prompt) and (answer := self._answer_alone(messages[i], tools, text)):
            text = prompt + answer
        if not text.startswith(prompt):
            raise TemplateRefusal(
                f"what a server sends before message {i + 1} (assistant) is not the beginning of the trained text"
                f" (they part at {_parting(prompt, text)!r})"
            )
        stop, end = self._stop(text, len(prompt))
        if sum(match.group() == stop for match in self._specials(text[:end], len(prompt))) > 1:
            raise TemplateRefusal(
                f"the template writes the stop token {stop!r} inside message {i + 1} (assistant) as well"
            )
        shown = text[len(prompt) : end - len(stop)].replace(MARK_START, "").replace(MARK_END, "")
        if missing := unsaid(said, shown):
            raise TemplateRefusal(f"the template changes or leaves out what the assistant said ({missing[:60]!r})")
        if marked is not None and unsaid(said, marked.replace(MARK_START, "").replace(MARK_END, "")):
            raise TemplateRefusal("the template's own {% generation %} tags do not hold what the assistant said")
        return Rendered(text[:end], (Span(len(prompt), end, said.weight),), (stop,))

    def _answer_alone(self, message: dict[str, Any], tools: list[Any] | None, text: str) -> str | None:
        """What the template writes behind a one-turn prompt for the assistant's message, if ``text`` ends in just that.

        Mistral shows the system message before the last question only while that is unanswered: the prompt is no
        beginning of the text, yet the answer is the same.
        """
        exchange = [PROBE[0], message]
        try:
            prompt, whole = self._text(exchange[:1], tools, prompt=True), self._text(exchange, tools, prompt=False)
        except TemplateRefusal:
            return None
        answer = whole[len(prompt) :]
        return answer if whole.startswith(prompt) and text.endswith(answer) else None

    def _text(self, messages: list[dict[str, Any]], tools: list[Any] | None, prompt: bool) -> str:
        """The rendered text, refused if the template broke a mark or encoded tool arguments twice."""
        text = self.template.render(messages, tools, prompt=prompt)
        if MARK_START in text or MARK_END in text or ESCAPED_MARK in text:
            rest = self._marked.sub("", text)
            escaped = ESCAPED_MARK in rest and ESCAPED_MARK not in json.dumps([messages, tools], ensure_ascii=False)
            if MARK_START in rest or MARK_END in rest or escaped:
                raise TemplateRefusal("the template cuts or escapes a special-token string that stands in a message")
        if any(encoded_twice(arguments) for arguments in argument_texts(messages)):
            raise TemplateRefusal("its tool arguments are JSON text inside JSON text")
        if any(json.dumps(arguments, ensure_ascii=False) in text for arguments in argument_texts(messages)):
            raise TemplateRefusal("the template encodes tool arguments that are JSON text a second time")
        return text

    def _stop(self, text: str, start: int) -> tuple[str, int]:
        """The stop token of the turn that begins at ``start``, and where it ends."""
        end, endings = len(text.rstrip()), []
        for match in reversed(list(self._specials(text, start))):
            if text[match.end() : end].strip():
                break
            endings.append(match)
            end = match.start()
        if not endings:
            tail = text[max(start, end - 20) : end]
            raise TemplateRefusal(
                f"the answer ends in {tail!r}, not in a special token of the tokenizer:"
                " the model would never learn to stop"
            )
        stop = next((match for match in reversed(endings) if match.group() == self._lasting_stop), endings[0])
        return stop.group(), stop.end()

    @cached_property
    def _lasting_stop(self) -> str | None:
        """The token behind a plain answer that is still there when the conversation goes on; None if there is none.

        Phi-3 closes a finished text with a second token; a model that stops at the first never comes to write it.
        """
        try:
            done, going_on = (self.template.render(PROBE, None, prompt=prompt) for prompt in (False, True))
        except TemplateRefusal:
            return None
        shared = _shared(done, going_on)
        behind = [match.group() for match in self._specials(done, done.find("Hello")) if match.end() <= shared]
        return behind[-1] if behind else None

    def unprompted(self) -> str:
        """What stands before an answer but in no prompt because the template ignores ``add_generation_prompt``."""
        bare, prompt = (self.template.render(PROBE[:1], None, prompt=prompt) for prompt in (False, True))
        text = self.template.render(PROBE, None, prompt=False)
        return text[len(prompt) : text.find("Hello", len(prompt))].strip() if bare == prompt else ""

    def _specials(self, text: str, start: int) -> Iterator[re.Match[str]]:
        """Control tokens the template wrote (not marked ones) from ``start`` on."""
        for match in self._control.finditer(text, start):
            if text[match.start() - 1 : match.start()] != MARK_START:
                yield match

    def _plain(self, message: Message) -> dict[str, Any]:
        """The message as a template reads it, its special-token strings marked."""
        return {"role": message.role, "content": self._mark(message.content), **self._mark(dict(message.extra))}

    def _mark(self, value: Any) -> Any:
        """``value`` with every special-token string in it wrapped in marks."""
        if isinstance(value, str):
            if MARK_START in value or MARK_END in value:
                raise TemplateRefusal("it holds U+FDD0 or U+FDD1, which Unicode sets aside for programs")
            if not self.sanitize and (found := self._control.search(value)):
                raise TemplateRefusal(
                    f"it holds the special token {found.group()!r} as text and data.sanitize is false"
                )
            return self._control.sub(f"{MARK_START}\\g<0>{MARK_END}", value)
        if isinstance(value, Mapping):
            return {key: self._mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item) for item in value]
        return value


def _join(turns: list[Rendered]) -> list[Rendered] | None:
    """One rendering that serves every turn, if each earlier text is a prefix of the last one."""
    last = turns[-1]
    if not all(last.text.startswith(turn.text) for turn in turns):
        return None
    return [Rendered(last.text, tuple(turn.spans[0] for turn in turns), tuple(turn.stops[0] for turn in turns))]


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _parting(prompt: str, text: str) -> str:
    """Where two texts part: the prompt's characters around it."""
    at = _shared(prompt, text)
    return prompt[max(0, at - 10) : at + 20]
