"""Special-token strings inside messages: wrapped in marks before rendering, so that nothing mistakes them for control.

The marks are characters that Unicode sets aside for programs. They stay in a rendered text: the encoder tells by them
what a person wrote from the control tokens that the template writes. The second pair, signs, surrounds what is looked
for in a rendering (chat/masks/untrained_spans.py, chat/masks/tool_results.py) and never leaves those.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.chat.template.chat_template import TemplateRefusal
from sft_cli.chat.template.reasoning_blocks import KEYS
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of

MARK_START, MARK_END = "\ufdd0", "\ufdd1"
MUTE_START, MUTE_END = "\ufdd2", "\ufdd3"
SIGNS = re.compile(f"[{MUTE_START}{MUTE_END}]")
BOUNDARY = "\ufdd4"
"""Stands behind every message of a rendering that is walked (prefix_renderer.py)."""
TRACE_START, TRACE_END, TRACE_DIGITS = "\ufdd5", "\ufdd6", "".join(map(chr, range(0xFDE0, 0xFDF0)))
"""Surround, with a number, each text of a conversation whose place in a rendering is looked for (text_positions.py)."""
_RESERVED = re.compile("[\ufdd0-\ufdef]")
_ESCAPED = "\\ufdd"


class Marker:
    """Wraps the special-token strings of one tokenizer, and finds those that the template wrote."""

    def __init__(self, tokenizer: ChatTokenizer, sanitize: bool) -> None:
        self._sanitize, self._content = sanitize, frozenset(tokenizer.content_tokens)
        control = any_of(tokenizer.control)
        self._of_assistant = re.compile(any_of(tokenizer.control.keys() - self._content))
        self._control, self._marked = re.compile(control), re.compile(f"{MARK_START}(?:{control}){MARK_END}")

    def message(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """A message as templates read it, marked; tokens of content stay as they are in what an assistant writes.

        Raises:
            TemplateRefusal: As ``mark``.
        """
        if not self._content or sent["role"] != "assistant":
            content = sent["content"]
            if len(sent) == 2 and type(content) is str:  # as below, in half the time
                return {"role": sent["role"], "content": self.mark(content)}
            return self.mark(sent)
        own = ("content", *KEYS)
        return {k: self._marked_by(self._of_assistant if k in own else self._control, v) for k, v in sent.items()}

    def mark(self, value: Any) -> Any:
        """``value`` with every special-token string in it wrapped in marks.

        Raises:
            TemplateRefusal: It holds reserved characters, or (``sanitize`` is off) a special-token string.
        """
        return self._marked_by(self._control, value)

    def _marked_by(self, control: re.Pattern[str], value: Any) -> Any:
        """As ``mark``, of the special-token strings that ``control`` finds."""
        if isinstance(value, str):
            if not value.isascii() and _RESERVED.search(value):
                raise TemplateRefusal("it holds one of U+FDD0 to U+FDEF, which Unicode sets aside for programs")
            found = control.search(value)
            if found is None:
                return value
            if not self._sanitize:
                raise TemplateRefusal(
                    f"it holds the special token {found.group()!r} as text and data.sanitize is false"
                )
            return control.sub(f"{MARK_START}\\g<0>{MARK_END}", value)
        if isinstance(value, Mapping):
            return {key: self._marked_by(control, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked_by(control, item) for item in value]
        return value

    def check(self, text: str, *inputs: Any) -> None:
        """Refuse a rendered text in which the template broke a mark of its ``inputs``."""
        if MARK_START not in text and MARK_END not in text and _ESCAPED not in text:
            return
        rest = self._marked.sub("", text.replace(MUTE_START, "").replace(MUTE_END, ""))
        escaped = _ESCAPED in rest and _ESCAPED not in json.dumps(inputs, ensure_ascii=False)
        if MARK_START in rest or MARK_END in rest or escaped:
            raise TemplateRefusal("the template cuts or escapes a special-token string in a message")

    def specials(self, text: str, start: int, end: int) -> Iterator[re.Match[str]]:
        """Control tokens the template wrote (not marked ones, none of content) from ``start`` to ``end``."""
        for match in self._control.finditer(text, start, end):
            if text[match.start() - 1 : match.start()] != MARK_START and match.group() not in self._content:
                yield match


def unmarked(text: str) -> str:
    """The text without the marks around special-token strings."""
    return text.replace(MARK_START, "").replace(MARK_END, "") if MARK_START in text else text


def muted(marked: str, ranges: Sequence[tuple[int, int]]) -> str:
    """A marked text with ``MUTE_START`` and ``MUTE_END`` around ranges of the text as it was before marking."""
    at = [i for i, character in enumerate(marked) if character not in (MARK_START, MARK_END)]
    pieces, done = [], 0
    for start, end in ranges:
        begin, finish = at[start], at[end - 1] + 1
        begin -= marked[begin - 1 : begin] == MARK_START
        finish += marked[finish : finish + 1] == MARK_END
        pieces += [marked[done:begin], MUTE_START, marked[begin:finish], MUTE_END]
        done = finish
    return "".join([*pieces, marked[done:]])


def places(shown: str) -> list[tuple[int, int]]:
    """Where the signs stand in a rendering, counted without them; empty where they are not in pairs."""
    at = [match.start() - i for i, match in enumerate(SIGNS.finditer(shown))]
    kinds = SIGNS.findall(shown)
    paired = kinds == [MUTE_START, MUTE_END] * (len(kinds) // 2)
    return list(zip(at[::2], at[1::2], strict=True)) if paired else []
