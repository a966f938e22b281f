"""The texts of rows before they are laid out: rendered ones split, stop tokens taken off answers, tags refused."""

from functools import cached_property
from typing import NamedTuple

from sft_cli.chat.split_rendered import Splitter
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal, load_template, named_templates
from sft_cli.chat.tokens.delimiters import Delimiters
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation


class Opened(NamedTuple):
    """A conversation whose answers hold no stop tokens of their own.

    Attributes:
        conversation: The conversation.
        stops: The stop tokens that were taken off.
    """

    conversation: Conversation
    stops: tuple[str, ...]


class Texts:
    """Reads the texts of rows for one template, one tokenizer and one set of rules."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, data: DataConfig) -> None:
        self._template, self._tokenizer, self._data = template, tokenizer, data
        self._splitter = Splitter(template, tokenizer)
        self._special = tuple(tokenizer.control.keys() - set(tokenizer.content_tokens))
        self._last = frozenset(token[-1] for token in self._special)

    def opened(self, conversation: Conversation) -> Opened:
        """The conversation split if it was rendered, its answers without stop tokens of their own.

        Raises:
            TemplateRefusal: The template would not render it so.
        """
        split = self._split(conversation)
        return Opened(*self._tags(split).without_stops(split))

    def mistake(self, opened: Conversation) -> SftError | None:
        """What is wrong with an opened conversation, or a document, that holds the template's own tags."""
        return self._tags(opened).mistake(opened, self._data)

    def remarks(self, opened: Opened) -> frozenset[str]:
        """What was seen in the texts of a conversation that is used; keys of data/remarks.py."""
        found = {"own_stop"} if opened.stops else set[str]()
        for message in opened.conversation.messages:
            if message.role != "assistant" or not message.weight:
                continue
            text = message.content.rstrip()
            if self._ends_special(text):
                found.add("special_end")
            if not (text or message.extra):
                found.add("empty_answer")
        if self._tags(opened.conversation).headers(opened.conversation) is not None:
            found.add("header")
        return frozenset(found)

    def _ends_special(self, text: str) -> bool:
        """Whether a text ends in a special token; the last character is looked at first, for there may be thousands."""
        return text[-1:] in self._last and text.endswith(self._special)

    def _split(self, conversation: Conversation) -> Conversation:
        if not conversation.rendered:
            return conversation
        try:
            return self._splitter.split(conversation)
        except TemplateRefusal as refusal:
            name = self._renders(conversation)
            fix = f"set template={name}, which renders it exactly so" if name else ""
            raise TemplateRefusal(str(refusal), fix=fix) from refusal

    def _renders(self, conversation: Conversation) -> str | None:
        """The template of ours that would have rendered a text so; None if none would."""
        for name, splitter in self._ours.items():
            try:
                splitter.split(conversation)
            except TemplateRefusal:
                continue
            return name
        return None

    def _tags(self, conversation: Conversation) -> Delimiters:
        """The template's own tags, with tools or without."""
        return self._delimiters[bool(conversation.tools)]

    @cached_property
    def _delimiters(self) -> tuple[Delimiters, Delimiters]:
        without = Delimiters(self._template, self._tokenizer)
        return without, Delimiters(self._template.for_tools, self._tokenizer) if self._template.named else without

    @cached_property
    def _ours(self) -> dict[str, Splitter]:
        """A splitter for each template of ours."""
        found = {name: load_template(TemplateConfig(name=name), self._tokenizer) for name in named_templates()}
        return {name: Splitter(template, self._tokenizer) for name, template in found.items()}
