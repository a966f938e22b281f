"""Sentinel characters in messages: marks around special-token strings, and sentinels around ranges to locate.

The sentinels are characters that Unicode reserves for internal use. Marks wrap each special-token string in a message
before rendering and stay in the rendered text: the encoder uses them to distinguish user text from the control
tokens that the template writes. The second pair surrounds a range whose position in a rendering is needed
(chat/masks/no_loss_spans.py, chat/masks/prompt_texts.py); it never leaves those modules.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.chat.template.chat_template import RenderError
from sft_cli.chat.template.reasoning_blocks import REASONING_KEYS
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of

MARK_START, MARK_END = "\ufdd0", "\ufdd1"
RANGE_START, RANGE_END = "\ufdd2", "\ufdd3"
RANGE_SENTINELS = re.compile(f"[{RANGE_START}{RANGE_END}]")
MESSAGE_BOUNDARY = "\ufdd4"
"""Written after every message when one rendering is split into prefixes (prefix_renderer.py)."""
TRACE_START, TRACE_END, TRACE_DIGITS = "\ufdd5", "\ufdd6", "".join(map(chr, range(0xFDE0, 0xFDF0)))
"""Surround each text of a conversation, with its number, to locate it in a rendering (text_positions.py)."""
RESERVED = re.compile("[\ufdd0-\ufdef]")
"""The characters that Unicode reserves for internal use."""
_ESCAPED = "\\ufdd"


class SentinelMarker:
    """Mark the special-token strings of one tokenizer, and find the control tokens that the template wrote.

    Attributes:
        control_tokens: The special-token strings.
    """

    def __init__(self, tokenizer: ChatTokenizer, sanitize: bool) -> None:
        self._sanitize, self._content_tokens = sanitize, frozenset(tokenizer.content_tokens)
        self.control_tokens = tuple(tokenizer.control_tokens)
        control = any_of(tokenizer.control_tokens)
        self._control_in_answers = re.compile(any_of(tokenizer.control_tokens.keys() - self._content_tokens))
        self._control, self._marked = re.compile(control), re.compile(f"{MARK_START}(?:{control}){MARK_END}")

    def mark_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Mark a message as templates read it; content tokens in an assistant's text are not marked.

        Raises:
            RenderError: See ``mark``.
        """
        if not self._content_tokens or message["role"] != "assistant":
            content = message["content"]
            if len(message) == 2 and type(content) is str:  # the same result as below, in half the time
                return {"role": message["role"], "content": self.mark(content)}
            return self.mark(message)
        answer_keys = ("content", *REASONING_KEYS)
        return {
            k: self._mark_matches(self._control_in_answers if k in answer_keys else self._control, v)
            for k, v in message.items()
        }

    def mark(self, value: Any) -> Any:
        """Return ``value`` with marks around every special-token string in it.

        Raises:
            RenderError: It contains reserved characters, or (``sanitize`` is off) a special-token string.
        """
        return self._mark_matches(self._control, value)

    def _mark_matches(self, control: re.Pattern[str], value: Any) -> Any:
        """Mark the special-token strings that ``control`` matches, like ``mark``."""
        if isinstance(value, str):
            if not value.isascii() and RESERVED.search(value):
                raise RenderError("it holds one of U+FDD0 to U+FDEF, which Unicode reserves for internal use")
            match = control.search(value)
            if match is None:
                return value
            if not self._sanitize:
                raise RenderError(f"it holds the special token {match.group()!r} as text and data.sanitize is false")
            return control.sub(f"{MARK_START}\\g<0>{MARK_END}", value)
        if isinstance(value, Mapping):
            return {key: self._mark_matches(control, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark_matches(control, item) for item in value]
        return value

    def check_marks(self, text: str, *inputs: Any) -> None:
        """Reject a rendered text in which the template broke a mark of its ``inputs``."""
        if MARK_START not in text and MARK_END not in text and _ESCAPED not in text:
            return
        rest = self._marked.sub("", text.replace(RANGE_START, "").replace(RANGE_END, ""))
        escaped = _ESCAPED in rest and _ESCAPED not in json.dumps(inputs, ensure_ascii=False)
        if MARK_START in rest or MARK_END in rest or escaped:
            raise RenderError("the template cuts or escapes a special-token string in a message")

    def has_control_token(self, text: str) -> bool:
        """Return whether a text contains a special-token string."""
        return self._control.search(text) is not None

    def find_control_tokens(self, text: str, start: int, end: int) -> Iterator[re.Match[str]]:
        """Yield the control tokens (neither marked nor content tokens) from ``start`` to ``end``."""
        for match in self._control.finditer(text, start, end):
            if text[match.start() - 1 : match.start()] != MARK_START and match.group() not in self._content_tokens:
                yield match


def strip_marks(text: str) -> str:
    """Return the text without the marks around special-token strings."""
    if MARK_START not in text and MARK_END not in text:
        return text
    return text.replace(MARK_START, "").replace(MARK_END, "")


def mark_ranges(marked: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Return a marked text with ``RANGE_START`` and ``RANGE_END`` around ranges; they index the text before marking."""
    positions = [i for i, character in enumerate(marked) if character not in (MARK_START, MARK_END)]
    pieces, done = [], 0
    for start, end in ranges:
        first, last = positions[start], positions[end - 1] + 1
        first -= marked[first - 1 : first] == MARK_START
        last += marked[last : last + 1] == MARK_END
        pieces += [marked[done:first], RANGE_START, marked[first:last], RANGE_END]
        done = last
    return "".join([*pieces, marked[done:]])


def find_ranges(rendered: str) -> list[tuple[int, int]]:
    """Return the ranges between sentinels in a rendering, as indices without them; empty if they are not in pairs."""
    positions = [match.start() - i for i, match in enumerate(RANGE_SENTINELS.finditer(rendered))]
    kinds = RANGE_SENTINELS.findall(rendered)
    paired = kinds == [RANGE_START, RANGE_END] * (len(kinds) // 2)
    return list(zip(positions[::2], positions[1::2], strict=True)) if paired else []
