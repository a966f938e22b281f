"""What a judge is asked, and what it replies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sft_cli.endpoint.client import Completion
from sft_cli.utils.hashing import json_digest


@dataclass(frozen=True)
class JudgeRequest:
    """One request to a judge.

    Attributes:
        system: What the judge is to do, and the form of its reply.
        content: The conversation and the answers, as JSON, so that no answer can end its own field.
        schema: JSON schema of the reply.
        attempt: Number of the attempt, from 0; another attempt is another request.
    """

    system: str
    content: str
    schema: Mapping[str, Any]
    attempt: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages of the request; a later attempt asks for the object alone."""
        system = f"{self.system}\n\nYour reply must be the JSON object alone." if self.attempt else self.system
        return [{"role": "system", "content": system}, {"role": "user", "content": self.content}]

    def key(self, model: str, temperature: float, max_tokens: int) -> str:
        """Return the digest that identifies the request in a journal; the endpoint's address is not part of it."""
        parts = [model, temperature, max_tokens, self.system, self.content, dict(self.schema), self.attempt]
        return json_digest(parts)[:32]


Complete = Callable[[JudgeRequest], Completion]
"""Function that answers a request: an endpoint, or a local model."""
