"""Serving text: the prompt that a server sends before an answer, and the text of a turn that begins with that prompt.

For assistant turn i, the prompt is the rendering of the messages before it with a generation prompt. The text of the
turn is the rendering up to and including it. If that does not begin with the prompt (reasoning blocks in the prompt, a
system message that moves), the text is the prompt followed by the output that the model must generate; if there is no
such text, the row is rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sft_cli.chat.masks.content_check import arguments_as_python, check_tool_calls
from sft_cli.chat.masks.sentinels import SentinelMarker
from sft_cli.chat.masks.stop_tokens import PROBE_EXCHANGE, StopTokenFinder, excerpt_at_difference
from sft_cli.chat.masks.text_positions import Trace
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_variants import client_message
from sft_cli.chat.template.prefix_renderer import PrefixRenderer, PrefixTexts
from sft_cli.types import Conversation, Message


@dataclass(frozen=True, slots=True)
class MarkedConversation:
    """A conversation as templates read it, with marks around special-token strings.

    Attributes:
        source_messages: The messages of the conversation.
        messages: The messages as the template reads them.
        tools: The tool schemas as the template reads them, or None.
        encoded_arguments: Texts that no rendering may contain: tool arguments encoded twice.
        python_arguments: Texts that no rendering may contain: tool arguments as Python writes them.
        prefixes: The texts of its prefixes, already checked; None if they are rendered one by one.
    """

    source_messages: tuple[Message, ...]
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    encoded_arguments: list[str]
    python_arguments: list[str]
    prefixes: PrefixTexts | None


class ServingRenderer:
    """Render prompts and turns of conversations as a server does, with one template."""

    def __init__(self, template: ChatTemplate, marker: SentinelMarker) -> None:
        self.template, self._marker = template, marker
        self._prefix_renderer = PrefixRenderer(template)

    def mark(self, conversation: Conversation, count: int) -> MarkedConversation:
        """Mark a conversation, and render the prefixes of its first ``count`` messages at once if possible.

        Raises:
            RenderError: A message or tool call cannot be rendered safely.
        """
        marked = [self._marker.mark_message(client_message(message)) for message in conversation.messages]
        tools = self._marker.mark(conversation.tools) if conversation.tools else None
        with_calls = [message for message in marked if "tool_calls" in message]
        encoded_arguments = check_tool_calls(with_calls) if with_calls else []
        python_arguments = arguments_as_python(marked) if with_calls else []
        prefixes = self._prefix_renderer.render_prefixes(marked[:count], tools)
        talk = MarkedConversation(conversation.messages, marked, tools, encoded_arguments, python_arguments, prefixes)
        if prefixes is not None:
            self._check(talk, str(prefixes.text(count, prompt=True)), marked)
        return talk

    def prompt(self, talk: MarkedConversation, i: int) -> str:
        """Return the prompt that a server sends before message i."""
        return self._prefix(talk, i, prompt=True)

    def turn_text(self, talk: MarkedConversation, i: int, prompt: str) -> str:
        """Return the text up to and including message i; it begins with ``prompt``.

        Raises:
            RenderError: The answer does not follow the prompt.
        """
        return self._after_prompt(talk, talk.messages[: i + 1], prompt, self._prefix(talk, i + 1, prompt=False))

    def changed_text(self, talk: MarkedConversation, i: int, prompt: str, message: dict[str, Any]) -> str:
        """Return the text up to and including message i, with another message in its place.

        Args:
            talk: The conversation.
            i: Index of the message.
            prompt: The prompt that a server sends before it.
            message: The message in its place.
        """
        messages = [*talk.messages[:i], message]
        return self._after_prompt(talk, messages, prompt, self._text(talk, messages, prompt=False))

    def traced_text(self, talk: MarkedConversation, i: int, trace: Trace, expected: str) -> str:
        """Return the text up to and including message i with the sentinels of a trace.

        Args:
            talk: The conversation.
            i: Index of the message.
            trace: The conversation up to message i, with sentinels.
            expected: The text without sentinels.
        """
        text = self.template.render(trace.messages, trace.tools, prompt=False)
        if (traced := trace.read(text)) and traced[0].startswith(expected):
            return text
        prompt = self.template.render(trace.messages[:i], trace.tools, prompt=True)
        traced_talk = replace(
            talk,
            messages=trace.messages,
            tools=trace.tools,
            prefixes=None,
            encoded_arguments=[],
            python_arguments=[],
        )
        return self._after_prompt(traced_talk, trace.messages, prompt, text)

    def _after_prompt(
        self, talk: MarkedConversation, messages: Sequence[dict[str, Any]], prompt: str, text: str
    ) -> str:
        """Return the text of the messages; it begins with the prompt that a server sends before the last message."""
        i = len(messages)
        if not text.startswith(prompt):
            serving_text = reasoning_blocks.serving_text(prompt, text, messages[-1], i)
            serving_text = serving_text or self._after_lone_question(talk, messages[-1], text, prompt)
            if serving_text is None:
                raise RenderError(
                    f"the server's prompt before message {i} (assistant) is not the start of the trained text"
                    f" (they differ at {excerpt_at_difference(prompt, text)!r})"
                )
            return serving_text
        reasoning = reasoning_blocks.reasoning_texts(messages[-1])
        reasoning_blocks.check_opened(prompt, text[len(prompt) :], bool(reasoning), i)
        if reasoning:
            reasoning_blocks.check_closed(prompt, messages[-1], i)
            if any(part not in text[len(prompt) :] for part in reasoning):
                return reasoning_blocks.serving_text(prompt, text, messages[-1], i) or text
        return text

    def _after_lone_question(
        self, talk: MarkedConversation, message: dict[str, Any], text: str, prompt: str
    ) -> str | None:
        """Return the prompt with the answer as the template writes it after a single question, if ``text`` ends in it.

        Mistral shows the system message before the last question only while that is unanswered: the text does not begin
        with the prompt, but the answer is the same.
        """
        exchange = [PROBE_EXCHANGE[0], message]
        try:
            question, full_text = self._text(talk, exchange[:1], prompt=True), self._text(talk, exchange, prompt=False)
        except RenderError:
            return None
        answer = full_text[len(question) :]
        return prompt + answer if answer and full_text.startswith(question) and text.endswith(answer) else None

    def _prefix(self, talk: MarkedConversation, count: int, prompt: bool) -> str:
        """Return the rendering of the first ``count`` messages; texts of ``talk.prefixes`` are already checked."""
        text = talk.prefixes.text(count, prompt) if talk.prefixes is not None else None
        return self._text(talk, talk.messages[:count], prompt) if text is None else text

    def _text(self, talk: MarkedConversation, messages: list[dict[str, Any]], prompt: bool) -> str:
        """Render messages and check the text."""
        text = self.template.render(messages, talk.tools, prompt=prompt)
        self._check(talk, text, messages)
        return text

    def _check(self, talk: MarkedConversation, text: str, messages: list[dict[str, Any]]) -> None:
        """Reject a text in which the template broke a mark, or encoded tool arguments twice or as Python."""
        self._marker.check_marks(text, messages, talk.tools)
        if talk.encoded_arguments and any(arguments in text for arguments in talk.encoded_arguments):
            raise RenderError("the template encodes tool arguments that are JSON text a second time")
        if talk.python_arguments and any(arguments in text for arguments in talk.python_arguments):
            raise RenderError("the template writes tool arguments as Python does, not as JSON", nothing_written=True)


def text_missing_from_prompt(template: ChatTemplate, stop_token_finder: StopTokenFinder, probe: Conversation) -> str:
    """Return the text before an answer that no prompt contains, because the template ignores ``add_generation_prompt``.

    Args:
        template: The template.
        stop_token_finder: Finds its stop tokens.
        probe: A question and an answer that the template renders.
    """
    question, answer = ({"role": message.role, "content": message.content} for message in probe.messages)
    tools = list(probe.tools) if probe.tools else None
    without_prompt, prompt = (template.render([question], tools, prompt=prompt) for prompt in (False, True))
    if without_prompt != prompt or stop_token_finder.prompt_tail:
        return ""
    text = template.render([question, answer], tools, prompt=False)
    if not text.startswith(prompt):
        text = reasoning_blocks.serving_text(prompt, text, answer, 2) or text
    reasoning = reasoning_blocks.find_block(answer["content"])
    first_text = answer["content"][reasoning.start : reasoning.end].strip() if reasoning else answer["content"]
    return text[len(prompt) : text.find(first_text, len(prompt))].replace("<think>", "").strip()
