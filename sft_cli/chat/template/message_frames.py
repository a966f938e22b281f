r"""What a template writes around messages, learnt from renderings of conversations whose texts are known.

Between two messages stand the closing of the first and the header of the second: ``<|im_end|>\n<|im_start|>user\n``.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal

TALKS = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "user", "assistant"),
    ("user", "assistant", "tool", "assistant"),
)
"""Roles of the conversations that are rendered; a template need not know all of them."""


@dataclass(frozen=True)
class Frames:
    """What one template writes around messages; of each place the texts that were seen, the longest first.

    Attributes:
        beginnings: Before the first message, by its role.
        between: Between two messages, by their roles.
        endings: Behind the last message, by its role.
        prompt: What a server's prompt ends in behind the question; empty if the template adds nothing.
    """

    beginnings: dict[str, list[str]] = field(default_factory=dict)
    between: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    endings: dict[str, list[str]] = field(default_factory=dict)
    prompt: str = ""

    @classmethod
    def of(cls, template: ChatTemplate) -> "Frames":
        """Those of a template."""
        beginnings: dict[str, set[str]] = {}
        between: dict[tuple[str, str], set[str]] = {}
        endings: dict[str, set[str]] = {}
        for roles in TALKS:
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

    def after(self, role: str) -> Iterator[tuple[str, str]]:
        """What may follow a message: the role of the next one, and what stands between."""
        for (first, second), texts in self.between.items():
            for text in texts if first == role else ():
                yield second, text

    def headers(self, role: str) -> list[str]:
        """What stands before a later message of the role, without what closes the answer before it."""
        gaps = self.between.get(("assistant", role), ())
        endings = self.endings.get("assistant", ())
        return [gap.removeprefix(ending) for gap in gaps for ending in endings if gap.startswith(ending)]


def _gaps(template: ChatTemplate, roles: Sequence[str]) -> list[str] | None:
    """What stands before, between and behind the messages; None if the template does not show each once, in order."""
    words = [f"Wq{number}w" for number in range(len(roles))]
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    try:
        text = template.render(messages, None, prompt=False)
    except TemplateRefusal:
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
    """What the template adds for ``add_generation_prompt``."""
    question = [{"role": "user", "content": "Wq0w"}]
    try:
        bare, prompt = (template.render(question, None, prompt=prompt) for prompt in (False, True))
    except TemplateRefusal:
        return ""
    return prompt.removeprefix(bare) if prompt.startswith(bare) else ""


def _longest_first(texts: set[str]) -> list[str]:
    return sorted(texts, key=lambda text: (-len(text), text))
