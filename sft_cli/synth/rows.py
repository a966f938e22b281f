"""The rows that a generator makes, and what became of the rest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sft_cli.config.schema.synth import SynthConfig
from sft_cli.synth.prompt_files import PromptFile
from sft_cli.synth.requests import TeacherReply
from sft_cli.synth.session import TeacherSession


@dataclass(slots=True)
class Made:
    """The result of a generator.

    Attributes:
        rows: Rows of messages, each with its provenance.
        counts: Number of answers or instructions by what became of them: ``kept``, or the reason for a drop.
        prompts: The prompts that were used.
        planned: Number of requests of the whole, if it is known before.
        figures: Further figures for the manifest and the table, such as pass@k.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    prompts: list[PromptFile] = field(default_factory=list)
    planned: int | None = None
    figures: dict[str, float] = field(default_factory=dict)


def drop_reason(reply: TeacherReply, config: SynthConfig) -> str:
    """Return why an answer becomes no row; empty if nothing speaks against it."""
    if not reply.stopped:
        return "cut at max_new_tokens"
    if not reply.text.strip():
        return "empty"
    folded = reply.text.casefold()
    phrase = next((phrase for phrase in config.drop_phrases if phrase.casefold() in folded), None)
    return "" if phrase is None else f"phrase: {phrase}"


def message_row(
    messages: Sequence[Mapping[str, Any]], answer: str, reasoning: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a row that ``sft prepare`` reads: messages, reasoning apart, and the provenance in a column of its own."""
    apart = {"reasoning_content": reasoning} if reasoning else {}
    turn = {"role": "assistant", **apart, "content": answer}
    return {"messages": [*(dict(message) for message in messages), turn], "synth": dict(provenance)}


def provenance(
    session: TeacherSession,
    generator: str,
    prompts: Sequence[PromptFile],
    parents: Sequence[str],
    replies: Sequence[TeacherReply],
) -> dict[str, Any]:
    """Return where a row comes from.

    Args:
        session: The session, whose teacher and prices are named.
        generator: Name of the generator.
        prompts: The prompts that were used.
        parents: Ids of what the row was made from.
        replies: The replies that the row was made of.
    """
    return {
        "generator": generator,
        "teacher": session.teacher.name,
        "prompts": {prompt.name: prompt.digest for prompt in prompts},
        "parents": list(parents),
        "requests": [reply.key for reply in replies],
        "at": replies[-1].at,
        "tokens": sum(reply.output_tokens for reply in replies),
        "cost": round(sum(map(session.price, replies)), 8),
    }
