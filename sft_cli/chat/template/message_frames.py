r"""The text that a template writes around messages, found by rendering conversations with known texts.

Between two messages are the end of the first and the header of the second: ``<|im_end|>\n<|im_start|>user\n``.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError

PROBE_ROLES = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "user", "assistant"),
    ("user", "assistant", "tool", "assistant"),
)
"""Roles of the conversations that are rendered; a template need not support all of them."""


@dataclass(frozen=True)
class MessageFrames:
    """The texts that a template writes around messages, for each place the longest first.

    Attributes:
        beginnings: Texts before the first message, by its role.
        between: Texts between two messages, by their roles.
        endings: Texts after the last message, by its role.
        prompt: The text that ``add_generation_prompt`` adds after a question; may be empty.
    """

    beginnings: dict[str, list[str]] = field(default_factory=dict)
    between: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    endings: dict[str, list[str]] = field(default_factory=dict)
    prompt: str = ""

    @classmethod
    def from_template(cls, template: ChatTemplate) -> "MessageFrames":
        """Find the frames of a template."""
        beginnings: dict[str, set[str]] = {}
        between: dict[tuple[str, str], set[str]] = {}
        endings: dict[str, set[str]] = {}
        for roles in PROBE_ROLES:
            gaps = _gaps(template, roles)
            if gaps is None:
                continue
            beginnings.setdefault(roles[0], set()).add(gaps[0])
            endings.setdefault(roles[-1], set()).add(gaps[-1])
            for pair, gap in zip(itertools.pairwise(roles), gaps[1:-1], strict=True):
                between.setdefault(pair, set()).add(gap)
        return cls(
            {role: _longest_first(texts) for role, texts in beginnings.items()},
            {pair: _longest_first(texts) for pair, texts in between.items()},
            {role: _longest_first(texts) for role, texts in endings.items()},
            _prompt(template),
        )

    def followers(self, role: str) -> Iterator[tuple[str, str]]:
        """Yield the roles that may follow a message, each with the text between."""
        for (first, second), texts in self.between.items():
            for text in texts if first == role else ():
                yield second, text

    def headers(self, role: str) -> list[str]:
        """Return the texts before a message of a role, without the text that closes the answer before it."""
        gaps = self.between.get(("assistant", role), ())
        endings = self.endings.get("assistant", ())
        return [gap.removeprefix(ending) for gap in gaps for ending in endings if gap.startswith(ending)]


def _gaps(template: ChatTemplate, roles: Sequence[str]) -> list[str] | None:
    """Return the texts around the messages; None if the template does not show each message once, in order."""
    words = [f"Wq{number}w" for number in range(len(roles))]
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    try:
        text = template.render(messages, None, prompt=False)
    except RenderError:
        return None
    if any(text.count(word) != 1 for word in words):
        return None
    gaps = []
    for word in words:
        gap, found, text = text.partition(word)
        if not found:
            return None
        gaps.append(gap)
    return [*gaps, text]


def _prompt(template: ChatTemplate) -> str:
    """Return the text that the template adds for ``add_generation_prompt``."""
    question = [{"role": "user", "content": "Wq0w"}]
    try:
        without_prompt, prompt = (template.render(question, None, prompt=prompt) for prompt in (False, True))
    except RenderError:
        return ""
    return prompt.removeprefix(without_prompt) if prompt.startswith(without_prompt) else ""


def _longest_first(texts: set[str]) -> list[str]:
    return sorted(texts, key=lambda text: (-len(text), text))
