"""Split the reasoning off an answer, by the tags of the model's own template."""

from collections.abc import Sequence

REASONING_TAGS = (
    ("<think>", "</think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("[THINK]", "[/THINK]"),
)
"""Texts around the reasoning, by family of models."""


def template_tags(template: str) -> list[tuple[str, str]]:
    """Return the tags that a template uses."""
    return [(start, end) for start, end in REASONING_TAGS if end in template or start in template]


def split_reasoning(prompt: str, text: str, tags: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the reasoning and the answer of a generated text.

    The prompt may open the reasoning. Reasoning that a limit cut, so that it never ends, leaves an empty answer.
    """
    for start, end in tags:
        opened = prompt.rstrip().endswith(start)
        if end in text:
            reasoning, _, answer = text.rpartition(end)
            return reasoning.strip().removeprefix(start).strip(), answer.lstrip("\n")
        if opened or text.lstrip().startswith(start):
            return text.strip().removeprefix(start).strip(), ""
    return "", text
