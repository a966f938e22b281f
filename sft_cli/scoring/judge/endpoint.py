"""A judge at an OpenAI-compatible endpoint."""

from typing import Any

from sft_cli.endpoint.client import Completion, EndpointClient
from sft_cli.endpoint.settings import SettingNames
from sft_cli.scoring.judge.requests import Complete, JudgeRequest
from sft_cli.scoring.judge.settings import JudgeSettings

NAMES = SettingNames(
    owner="judge",
    missing="a judge at an endpoint",
    url="--url",
    model="--model",
    timeout="--timeout",
    concurrency="--concurrency",
    requests_per_minute="--requests-per-minute",
    rejected="if it does not know response_format, add --response-format none",
)


def endpoint(settings: JudgeSettings) -> Complete:
    """Return the function that sends a request to the endpoint of the settings and waits for the reply.

    Raises:
        SftError: The package ``openai`` or the key is missing.
    """
    client = EndpointClient(settings.endpoint, NAMES)

    def complete(request: JudgeRequest) -> Completion:
        """Return the reply to a request."""
        return client.send(_body(request, settings))

    return complete


def _body(request: JudgeRequest, settings: JudgeSettings) -> dict[str, Any]:
    """Return the parameters of a request."""
    body: dict[str, Any] = {"messages": request.messages, "temperature": settings.temperature}
    body["max_tokens"] = settings.max_tokens
    if settings.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif settings.response_format == "json_schema":
        schema = {"name": "verdict", "strict": True, "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body
