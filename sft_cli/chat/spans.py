"""What is trained: character spans of the rendered text.

For assistant turn i, P = the prompt a server would send for it, Q = the text up to and with the turn. The span is the text
of Q behind P, cut behind the stop token: exactly what the model must generate. Where an earlier turn's Q is not a prefix
of the later text (Qwen3 drops earlier reasoning), one rendering cannot serve all turns and the conversation is unrolled:
one text per trained turn, each as it would be served.

Special-token strings inside messages are wrapped in two private-use characters before rendering, so that the encoder can
tell them from the control tokens the template writes. The marks stay in ``Rendered.text`` until then.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sft_cli.chat.template import ChatTemplate, TemplateRefusal
from sft_cli.chat.tokenizer import ChatTokenizer
from sft_cli.config.schema import TrainOn
from sft_cli.data.types import Conversation, Message

MARK_START, MARK_END = "\U000f0000", "\U000f0001"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a rendered text that are trained with ``weight``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and its trained spans, in order; the last span ends the text.

    ``stops`` names the stop token that ends each span; empty for a text trained whole.
    """

    text: str
    spans: tuple[Span, ...]
    stops: tuple[str, ...]


class Renderer:
    """Renders conversations with one template and one tokenizer's special tokens."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, train_on: TrainOn, sanitize: bool) -> None:
        self.template, self.train_on, self.sanitize = template, train_on, sanitize
        longest_first = sorted(tokenizer.control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._eos = tokenizer.special_tokens.get("eos_token", "")
        self._bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""

    def render(self, conversation: Conversation, unroll: bool = False) -> list[Rendered]:
        """One text, or one per trained turn where the template rewrites history or ``unroll`` asks for it.

        Raises:
            TemplateRefusal: The mask cannot be proven; the message says why.
        """
        if conversation.text is not None:
            return [self._document(conversation.text)]
        for message in conversation.messages:
            if message.role != "assistant" and message.weight not in (0, 1):
                raise TemplateRefusal(f"a {message.role} message has weight {message.weight:g}; only assistant turns are weighted")
        messages = [self._plain(message) for message in conversation.messages]
        tools = [self._mark(tool) for tool in conversation.tools] if conversation.tools else None
        if self.train_on is TrainOn.all:
            text = self.template.render(messages, tools, prompt=False)
            return [Rendered(text, (Span(0, len(text), 1.0),), ())]
        trained = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
        if self.train_on is TrainOn.last:
            trained = trained[-1:]
        trained = [i for i in trained if conversation.messages[i].weight > 0]
        if not trained:
            raise TemplateRefusal("no assistant turn carries loss (no such turn, or all weights are 0)")
        turns = [self._turn(conversation.messages, messages, tools, i) for i in trained]
        return turns if unroll else _join(turns) or turns

    def serving_input(self, conversation: Conversation) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Messages before the last assistant turn, and tools, as a client sends them (nothing marked)."""
        last = max(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
        messages = [{"role": m.role, "content": m.content, **m.extra} for m in conversation.messages[:last]]
        return messages, list(conversation.tools) if conversation.tools else None

    def _document(self, text: str) -> Rendered:
        """A plain document: all of it trained, ended by the end-of-text token."""
        if not self._eos:
            raise TemplateRefusal("the tokenizer has no eos_token to end a document with")
        marked = self._bos + self._mark(text) + self._eos
        return Rendered(marked, (Span(len(self._bos), len(marked), 1.0),), (self._eos,))

    def _turn(
        self, said: tuple[Message, ...], messages: list[dict[str, Any]], tools: list[Any] | None, i: int
    ) -> Rendered:
        """The text up to and with assistant turn i; its one span is the turn."""
        prompt = self.template.render(messages[:i], tools, prompt=True)
        text = self.template.render(messages[: i + 1], tools, prompt=False)
        if not text.startswith(prompt):
            raise TemplateRefusal(
                f"what a server sends before message {i + 1} (assistant) is not the beginning of the trained text"
                f" (they part at {_parting(prompt, text)!r})"
            )
        stop, end = self._stop(text, len(prompt))
        _check_said(said[i], text[len(prompt) : end - len(stop)])
        return Rendered(text[:end], (Span(len(prompt), end, said[i].weight),), (stop,))

    def _stop(self, text: str, start: int) -> tuple[str, int]:
        """The stop token of the turn that begins at ``start``, and where it ends."""
        end = len(text.rstrip())
        for match in self._specials(text, start):
            if match.end() == end:
                return match.group(), end
        tail = text[max(start, end - 20) : end]
        raise TemplateRefusal(
            f"the answer ends in {tail!r}, not in a special token of the tokenizer: the model would never learn to stop"
        )

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
                raise TemplateRefusal("it holds U+F0000 or U+F0001, which are reserved for marking")
            if not self.sanitize and (found := self._control.search(value)):
                raise TemplateRefusal(f"it holds the special token {found.group()!r} as text and data.sanitize is false")
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


def _check_said(message: Message, answer: str) -> None:
    """Refuse an answer text that does not hold what the assistant said."""
    wanted = message.content.strip()
    shown = answer.replace(MARK_START, "").replace(MARK_END, "")
    pieces = [piece.strip() for piece in re.split(r"</?think>", wanted)] if "</think>" in wanted else [wanted]
    pieces += [text for call in message.extra.get("tool_calls") or () for text in _call_strings(call)]
    if isinstance(reasoning := message.extra.get("reasoning_content"), str):
        pieces.append(reasoning.strip())
    for piece in pieces:
        if piece not in shown:
            raise TemplateRefusal(f"the template changes or leaves out what the assistant said ({piece[:60]!r})")


def _call_strings(call: Mapping[str, Any]) -> Iterator[str]:
    """What must be seen of a tool call: its name and the names of its arguments."""
    function = call.get("function", call)
    yield function["name"]
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        yield from arguments


def _parting(prompt: str, text: str) -> str:
    """Where two texts part: the prompt's next characters."""
    for i, (a, b) in enumerate(zip(prompt, text, strict=False)):
        if a != b:
            return prompt[max(0, i - 10) : i + 20]
    return prompt[max(0, len(text) - 10) : len(text) + 20]
