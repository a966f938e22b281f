"""Requests to a teacher and its replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.utils.hashing import json_digest

KEY_DIGITS = 32
"""Digits of the key of a request."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How replies are drawn.

    Attributes:
        temperature: 0 for the most probable tokens.
        top_p: Probability of the set of tokens that is drawn from.
        seed: Seed of sampling.
        max_new_tokens: Longest reply, in tokens.
    """

    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """A request to a teacher.

    Attributes:
        id: What is asked, such as the id of a prompt; part of the seed of sampling.
        messages: The conversation up to the reply.
        sample: Number of the sample, from 0.
        tools: Schemas of the tools, if there are any.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    sample: int = 0
    tools: tuple[Mapping[str, Any], ...] | None = None

    def key(self, teacher: Mapping[str, Any], drawing: Drawing) -> str:
        """Return the digest that identifies the request in the journal.

        Sampled requests differ by id and sample; at temperature 0 equal conversations are one request.
        """
        sampled = [drawing.top_p, drawing.seed, self.id, self.sample] if drawing.temperature else []
        settings = [drawing.temperature, drawing.max_new_tokens, *sampled]
        conversation = [[dict(message) for message in self.messages], [dict(tool) for tool in self.tools or ()]]
        return json_digest([dict(teacher), settings, conversation])[:KEY_DIGITS]


@dataclass(frozen=True, slots=True)
class TeacherReply:
    """A reply of a teacher.

    Attributes:
        text: The reply without reasoning.
        reasoning: The reasoning; empty if there is none.
        stopped: Whether the teacher ended the reply, not a limit.
        input_tokens: Tokens of the request, if the endpoint counts them; 0 with a local teacher.
        output_tokens: Tokens of the reply.
        at: Date and time of the reply, UTC, ISO 8601.
        key: Key of the request.
    """

    text: str
    reasoning: str
    stopped: bool
    input_tokens: int
    output_tokens: int
    at: str
    key: str = ""


Replies = Sequence[TeacherReply | None]
"""The reply to each request; None if a limit kept the request from being sent."""


def reply_fields(reply: TeacherReply) -> dict[str, Any]:
    """Return the fields of a reply in the journal; ``reply_of`` is the inverse."""
    return {
        "reply": reply.text,
        **({"reasoning": reply.reasoning} if reply.reasoning else {}),
        "stopped": reply.stopped,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
        "at": reply.at,
    }


def reply_of(fields: Mapping[str, Any]) -> TeacherReply:
    """Return the reply of a line of the journal."""
    return TeacherReply(
        str(fields["reply"]),
        str(fields.get("reasoning", "")),
        bool(fields["stopped"]),
        int(fields["input_tokens"]),
        int(fields["output_tokens"]),
        str(fields["at"]),
        str(fields["key"]),
    )
