"""Texts that hold a conversation rendered already (``format: rendered``), split back into its messages.

The text is cut at what the template writes between messages. It is taken only where rendering the messages again gives
the same text: then it is proven and trained like any other conversation.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.template.message_frames import Frames
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.types import Conversation, Message
from sft_cli.utils.text import any_of, common_prefix_length


class Splitter:
    """Splits texts that one template rendered."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer) -> None:
        self._template = template
        self._control = re.compile(any_of(tokenizer.control.keys() - set(tokenizer.content_tokens)))
        self._bos = tokenizer.special_tokens.get("bos_token", "")
        self._eos = tokenizer.special_tokens.get("eos_token", "")

    @cached_property
    def _frames(self) -> Frames:
        return Frames.of(self._template)

    def split(self, conversation: Conversation) -> Conversation:
        """The conversation that a rendered text holds.

        Raises:
            TemplateRefusal: The template would not render it so; the message says where.
        """
        assert conversation.text is not None
        refusals = []
        for text in self._spellings(conversation.text):
            for messages in self._readings(text):
                refusal = self._unlike(messages, text)
                if refusal is None:
                    return replace(conversation, messages=messages, text=None, rendered=False)
                refusals.append(refusal)
        if refusals:
            raise TemplateRefusal(refusals[0])
        beginning = conversation.text[:40]
        raise TemplateRefusal(
            f"the text is no conversation that this template has rendered (it begins with {beginning!r}, and no message"
            " of a known role is found there)"
        )

    def _spellings(self, text: str) -> Iterator[str]:
        """The text without white space behind it, with the bos token that tokenizers add, without a second eos."""
        bare = text.rstrip()
        yield bare
        if self._bos and not bare.startswith(self._bos):
            yield self._bos + bare
        if self._eos and bare.endswith(self._eos):
            yield from self._spellings(bare.removesuffix(self._eos))

    def _readings(self, text: str) -> Iterator[tuple[Message, ...]]:
        """The messages a text may hold, by how the first one begins."""
        for role, beginnings in self._frames.beginnings.items():
            for beginning in dict.fromkeys([*beginnings, *(self._frames.headers(role))]):
                if text.startswith(beginning):
                    yield tuple(self._messages(text, role, len(beginning)))

    def _messages(self, text: str, role: str, at: int) -> Iterator[Message]:
        """The messages from ``at`` on, the first one of the role; each ends where the template's next tags begin."""
        while True:
            found = [
                (start, -len(gap), next_role)
                for next_role, gap in self._frames.after(role)
                if gap.strip() and (start := text.find(gap, at)) >= 0
            ]
            rest = text[at:]
            ending = next((end for end in self._frames.endings.get(role, ()) if rest.endswith(end.rstrip())), "")
            if not found or min(found)[0] >= len(text) - len(ending.rstrip()):
                yield Message(role, rest.removesuffix(ending.rstrip()))
                return
            start, length, next_role = min(found)
            yield Message(role, text[at:start])
            role, at = next_role, start - length

    def _unlike(self, messages: tuple[Message, ...], text: str) -> str | None:
        """Why the messages are not those of the text; None if they are."""
        last = messages[-1]
        headers = [gap.rstrip() for role, gap in self._frames.after(last.role) if role == "assistant" and gap.strip()]
        if last.content.endswith(tuple(headers)) or (last.role == "assistant" and not last.content):
            return "the text ends where the answer should begin"
        if all(message.role != "assistant" for message in messages):
            return "the text holds no answer that this template would write"
        for i, message in enumerate(messages):
            if wrong := self._control.search(message.content):
                place = message.content[max(0, wrong.start() - 20) : wrong.end() + 20]
                return (
                    f"message {i + 1} ({message.role}) of the text holds {wrong.group()!r} where this template does not"
                    f" write it ({place!r})"
                )
        try:
            shown = self._template.render(
                [{"role": m.role, "content": m.content} for m in messages], None, prompt=False
            )
        except TemplateRefusal as refusal:
            return str(refusal)
        endings = {"", *(ending.strip() for ending in self._frames.endings.get(last.role, ()))}
        if shown.startswith(text) and shown[len(text) :].strip() in endings:
            return None
        at = common_prefix_length(text, shown)
        return (
            f"rendering its messages again gives another text: where it has {text[at : at + 40]!r}, this template"
            f" writes {shown[at : at + 40]!r}"
        )
