"""Find a template's own tags in the texts of messages: stop tokens in answers, and rendered turns.

A tag that a person mentions (``what does <|im_end|> mean?``) is encoded as plain text. Three cases are handled
differently:

- an answer that ends in the stop token, which the template writes: the token is removed;
- a question, system message or document with whole turns, or with the header of an answer: the text was already
  rendered, and its tags would be encoded as characters; it is rejected;
- a header without special tokens (``### Response:``), which looks like a real header to the model: it is counted, and
  rejected with ``data.delimiters=error``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.message_frames import MessageFrames
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.config.schema.data import Delimiters as OnHeader
from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.text import any_of

_TAG = re.compile(r"[<\[].*[>\]]", re.DOTALL)
_CHECKED = ("system", "user")
"""Roles whose messages must not contain rendered turns."""


@dataclass(frozen=True, slots=True)
class _Search:
    """A pattern to search for and, if set, a closing text somewhere after it.

    ``needle`` occurs in every match of the pattern: searching for it first is cheap.
    """

    needle: str
    pattern: re.Pattern[str]
    closing: str = ""

    def find(self, text: str) -> str | None:
        """Return the first match in a text, up to the closing text."""
        match = self.pattern.search(text) if self.needle in text else None
        if match is None or not self.closing:
            return match and match.group().strip()
        end = text.find(self.closing, match.end())  # if it is not after the first match, it is after none
        return text[match.start() : end + len(self.closing)].strip() if end >= 0 else None


class DelimiterFinder:
    """Find one template's own tags in messages."""

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer) -> None:
        self._control = re.compile(any_of(tokenizer.control_tokens))
        self._bos = tokenizer.special_tokens.get("bos_token", "")
        frames = MessageFrames.from_template(template)
        self._stop_tokens = tuple(
            dict.fromkeys(token for end in frames.endings.get("assistant", ()) for token in self._control.findall(end))
        )
        self._ending = re.compile(f"(?:(?:{any_of(self._stop_tokens)})\\s*)+\\Z")
        answers = [frames.prompt, *frames.between.get(("user", "assistant"), ())]
        questions = list(frames.between.get(("assistant", "user"), ()))
        heads = list(dict.fromkeys(self._header(gap) for gap in (*answers, *questions)))
        self._rendered = list(dict.fromkeys([*self._answer_headers(answers), *self._turns(frames)]))
        self._plain = list(dict.fromkeys(search for head in heads for search in self._plain_header(head)))

    def remove_stop_tokens(self, conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
        """Return the conversation without the stop tokens at the end of its answers, and the removed stop tokens."""
        removed: list[str] = []
        messages = list(conversation.messages)
        for i, message in enumerate(messages):
            if message.role != "assistant" or not (text := message.content.rstrip()).endswith(self._stop_tokens):
                continue
            match = self._ending.search(message.content)
            assert match is not None, "it ends in a stop token"
            removed.append(next(stop for stop in self._stop_tokens if text.endswith(stop)))
            messages[i] = replace(message, content=message.content[: match.start()])
        return (replace(conversation, messages=tuple(messages)) if removed else conversation), tuple(removed)

    def find_error(self, conversation: Conversation, data: DataConfig) -> SftError | None:
        """Return the error in the texts of a conversation or document, or None."""
        if (problem := self._rendered_turn_error(conversation)) is not None or data.delimiters is not OnHeader.error:
            return problem
        header = self.find_header(conversation)
        if header is None:
            return None
        return SftError(
            where=conversation.where,
            problem=f"a message contains {header!r}, a header of the template, which looks real to the model"
            " (data.delimiters=error)",
            fix="correct the row, or set data.delimiters=warn",
        )

    def _rendered_turn_error(self, conversation: Conversation) -> SftError | None:
        """Return the error for a conversation or document that contains rendered turns, or None."""
        texts = [(0, "", conversation.text)] if conversation.text is not None else []
        texts += [(i, m.role, m.content) for i, m in enumerate(conversation.messages, 1) if m.role in _CHECKED]
        for number, role, text in texts:
            for search in self._rendered:
                if found := search.find(text):
                    name = f"message {number} ({role})" if number else "the document"
                    key = f"data.mix.{conversation.source}.format=rendered"
                    return SftError(
                        where=conversation.where,
                        problem=f"{name} contains turns that a template has already rendered ({found[:60]!r})",
                        fix=f"{key} reads a text column with the whole conversation; otherwise write the messages"
                        " without the template's tags",
                    )
        return None

    def find_header(self, conversation: Conversation) -> str | None:
        """Return the first header without special tokens in a message, or None."""
        if not self._plain:
            return None
        headers = (search.find(message.content) for message in conversation.messages for search in self._plain)
        return next((header for header in headers if header), None)

    def _header(self, gap: str) -> str:
        """Return the header at the end of the text between two messages."""
        stop = next((stop for stop in self._stop_tokens if stop in gap), None)
        return gap.partition(stop)[2] if stop else gap

    def _header_text(self, head: str) -> str:
        """Return a header without white space around it and the bos token before it."""
        return head.strip().removeprefix(self._bos).strip()

    def _answer_headers(self, gaps: Sequence[str]) -> Iterator[_Search]:
        """Yield a search for each header before an answer that is more than a special token inside a line."""
        for head in map(self._header, gaps):
            core = self._header_text(head)
            if not self._control.search(core):
                continue
            line = "\n" in head[len(head.rstrip()) :]
            bare = self._control.fullmatch(core) is not None
            if bare and not line:
                continue
            before, after = ("^[ \\t]*" if bare else ""), (r"[ \t]*(?:\n|\Z)" if line else r"(?!\w)")
            yield _Search(core, re.compile(f"{before}{re.escape(core)}{after}", re.MULTILINE))

    def _turns(self, frames: MessageFrames) -> Iterator[_Search]:
        """Yield searches for a whole turn at the beginning of a line: its header, and the text that closes it."""
        for first, second in (("user", "assistant"), ("system", "user"), ("assistant", "user")):
            gaps = frames.between.get((first, second), ())
            opened = [self._header(gap) for (_, role), all in frames.between.items() if role == first for gap in all]
            opened += frames.beginnings.get(first, ()) if first == "system" else ()
            for opening in opened:
                head, space = self._header_text(opening), r"\s" if opening[-1:].isspace() else ""
                if not (self._control.search(head) or _TAG.match(head)):
                    continue
                closings = {next((stop for stop in self._stop_tokens if stop in gap), gap.strip()) for gap in gaps} - {
                    ""
                }
                bos = f"(?:{re.escape(self._bos)})?" if self._bos else ""
                pattern = re.compile(f"^[ \\t]*{bos}{re.escape(head)}{space}", re.MULTILINE)
                yield from (_Search(head, pattern, closing) for closing in sorted(closings))

    def _plain_header(self, head: str) -> Iterator[_Search]:
        """Yield a search for a header without special tokens, at places where it looks like a real header."""
        core = self._header_text(head)
        if len(core) < 3 or core.isalnum() or self._control.search(core):
            return
        inline = "| " if head.startswith(" ") else ""
        before = "" if _TAG.fullmatch(core) else f"(?:^[ \\t]*{inline})"
        yield _Search(core, re.compile(before + re.escape(core), re.MULTILINE))
