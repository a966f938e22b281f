"""Parse the texts of a row before rendering: split rendered text, remove stop tokens of answers, find template tags."""

from functools import cached_property
from typing import NamedTuple

from sft_cli.chat.split_rendered import RenderedSplitter
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.loading import load_template, packaged_templates
from sft_cli.chat.tokens.delimiters import DelimiterFinder
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation


class ParsedRow(NamedTuple):
    """A conversation whose answers contain no stop tokens.

    Attributes:
        conversation: The conversation.
        removed_stops: The stop tokens that were removed.
    """

    conversation: Conversation
    removed_stops: tuple[str, ...]


class RowTextParser:
    """Parse the texts of rows for one template, one tokenizer and one data config."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, data: DataConfig) -> None:
        self._template, self._tokenizer, self._data = template, tokenizer, data
        self._splitter = RenderedSplitter(template, tokenizer)
        self._special_tokens = tuple(tokenizer.control_tokens.keys() - set(tokenizer.content_tokens))
        self._last_characters = frozenset(token[-1] for token in self._special_tokens)

    def parse(self, conversation: Conversation) -> ParsedRow:
        """Split the text of a rendered conversation, and remove stop tokens at the end of answers.

        Raises:
            RenderError: The template would not render this text.
        """
        split = self._split(conversation)
        return ParsedRow(*self._delimiters_for(split).remove_stop_tokens(split))

    def find_error(self, conversation: Conversation) -> SftError | None:
        """Return the error if a parsed conversation or a document contains the template's own tags, or None."""
        return self._delimiters_for(conversation).find_error(conversation, self._data)

    def remarks(self, row: ParsedRow) -> frozenset[str]:
        """Return the remarks (keys of data/remarks.py) about the texts of a conversation."""
        keys = {"own_stop"} if row.removed_stops else set[str]()
        for message in row.conversation.messages:
            if message.role != "assistant" or not message.weight:
                continue
            text = message.content.rstrip()
            if self._ends_in_special_token(text):
                keys.add("special_end")
            if not (text or message.extra):
                keys.add("empty_answer")
        if self._delimiters_for(row.conversation).find_header(row.conversation) is not None:
            keys.add("header")
        return frozenset(keys)

    def _ends_in_special_token(self, text: str) -> bool:
        """Return whether a text ends in a special token; checks the last character first, since there may be many."""
        return text[-1:] in self._last_characters and text.endswith(self._special_tokens)

    def _split(self, conversation: Conversation) -> Conversation:
        if not conversation.rendered:
            return conversation
        try:
            return self._splitter.split(conversation)
        except RenderError as error:
            name = self._matching_template(conversation)
            fix = f"set template={name}, which renders it exactly so" if name else ""
            raise RenderError(str(error), fix=fix) from error

    def _matching_template(self, conversation: Conversation) -> str | None:
        """Return the name of the packaged template that renders this text, or None."""
        for name, splitter in self._named_splitters.items():
            try:
                splitter.split(conversation)
            except RenderError:
                continue
            return name
        return None

    def _delimiters_for(self, conversation: Conversation) -> DelimiterFinder:
        """Return the finder of the template's tags, with tools or without."""
        return self._delimiters[bool(conversation.tools)]

    @cached_property
    def _delimiters(self) -> tuple[DelimiterFinder, DelimiterFinder]:
        without = DelimiterFinder(self._template, self._tokenizer)
        return without, DelimiterFinder(self._template.for_tools, self._tokenizer) if self._template.named else without

    @cached_property
    def _named_splitters(self) -> dict[str, RenderedSplitter]:
        """One splitter for each packaged template."""
        templates = {name: load_template(TemplateConfig(name=name), self._tokenizer) for name in packaged_templates()}
        return {name: RenderedSplitter(template, self._tokenizer) for name, template in templates.items()}
