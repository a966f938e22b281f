"""Split a rendered conversation (``format: rendered``) into its messages.

The text is cut at the template's own text between messages. The result is accepted only if rendering the messages
again gives the same text; then it is verified and trained like any other conversation.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_frames import MessageFrames
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.types import Conversation, Message
from sft_cli.utils.text import any_of, common_prefix_length


class RenderedSplitter:
    """Split texts that one template rendered."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer) -> None:
        self._template = template
        self._control = re.compile(any_of(tokenizer.control_tokens.keys() - set(tokenizer.content_tokens)))
        self._bos = tokenizer.special_tokens.get("bos_token", "")
        self._eos = tokenizer.special_tokens.get("eos_token", "")

    @cached_property
    def _frames(self) -> MessageFrames:
        return MessageFrames.from_template(self._template)

    def split(self, conversation: Conversation) -> Conversation:
        """Return the conversation in a rendered text.

        Raises:
            RenderError: The template would not render this text; the message gives the first difference.
        """
        assert conversation.text is not None
        mismatches = []
        for text in self._text_variants(conversation.text):
            for messages in self._candidate_messages(text):
                mismatch = self._mismatch(messages, text)
                if mismatch is None:
                    return replace(conversation, messages=messages, text=None, rendered=False)
                mismatches.append(mismatch)
        if mismatches:
            raise RenderError(mismatches[0])
        beginning = conversation.text[:40]
        raise RenderError(
            f"this template has not rendered the text (it begins with {beginning!r}, and no message"
            " of a known role is found there)"
        )

    def _text_variants(self, text: str) -> Iterator[str]:
        """Yield the text without trailing white space, with a missing bos token, and without a second eos token."""
        stripped = text.rstrip()
        yield stripped
        if self._bos and not stripped.startswith(self._bos):
            yield self._bos + stripped
        if self._eos and stripped.endswith(self._eos):
            yield from self._text_variants(stripped.removesuffix(self._eos))

    def _candidate_messages(self, text: str) -> Iterator[tuple[Message, ...]]:
        """Yield the messages that a text may contain, for each way in which the first one may begin."""
        for role, beginnings in self._frames.beginnings.items():
            for beginning in dict.fromkeys([*beginnings, *(self._frames.headers(role))]):
                if text.startswith(beginning):
                    yield tuple(self._messages(text, role, len(beginning)))

    def _messages(self, text: str, role: str, start_of_content: int) -> Iterator[Message]:
        """Yield the messages from a position on; each ends where the template's next tags begin."""
        while True:
            matches = [
                (start, -len(gap), next_role)
                for next_role, gap in self._frames.followers(role)
                if gap.strip() and (start := text.find(gap, start_of_content)) >= 0
            ]
            rest = text[start_of_content:]
            ending = next((end for end in self._frames.endings.get(role, ()) if rest.endswith(end.rstrip())), "")
            if not matches or min(matches)[0] >= len(text) - len(ending.rstrip()):
                yield Message(role, rest.removesuffix(ending.rstrip()))
                return
            start, length, next_role = min(matches)
            yield Message(role, text[start_of_content:start])
            role, start_of_content = next_role, start - length

    def _mismatch(self, messages: tuple[Message, ...], text: str) -> str | None:
        """Return the difference between the messages and the text, or None if rendering them gives the text."""
        last = messages[-1]
        headers = [
            gap.rstrip() for role, gap in self._frames.followers(last.role) if role == "assistant" and gap.strip()
        ]
        if last.content.endswith(tuple(headers)) or (last.role == "assistant" and not last.content):
            return "the text ends where the answer should begin"
        if all(message.role != "assistant" for message in messages):
            return "the text has no answer that this template would write"
        for i, message in enumerate(messages):
            if unexpected := self._control.search(message.content):
                excerpt = message.content[max(0, unexpected.start() - 20) : unexpected.end() + 20]
                return (
                    f"message {i + 1} ({message.role}) of the text contains {unexpected.group()!r} where this"
                    f" template does not write it ({excerpt!r})"
                )
        try:
            rendered = self._template.render(
                [{"role": m.role, "content": m.content} for m in messages], None, prompt=False
            )
        except RenderError as error:
            return str(error)
        endings = {"", *(ending.strip() for ending in self._frames.endings.get(last.role, ()))}
        if rendered.startswith(text) and rendered[len(text) :].strip() in endings:
            return None
        at = common_prefix_length(text, rendered)
        return (
            f"rendering its messages again gives another text: where it has {text[at : at + 40]!r}, this template"
            f" writes {rendered[at : at + 40]!r}"
        )
