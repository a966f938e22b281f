"""Ask an OpenAI-compatible endpoint. The client of the package ``openai`` is imported when it is needed."""

import json
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from threading import Lock
from typing import Any

from sft_cli.errors import SftError
from sft_cli.scoring.judge.requests import Complete, Completion, JudgeRequest
from sft_cli.scoring.judge.settings import JudgeSettings

AGAIN = "then run the same command again: it continues, and pays for no reply twice"
MALFORMED_RETRIES = 2
"""How often a request is sent again after a reply with status 200 that is not one of the API."""
_BYTES_PER_TOKEN = 4
"""For endpoints that report no tokens."""


class RateLimiter:
    """Spreads requests evenly, so that no minute starts more than a number of them; 0 is no limit."""

    def __init__(self, per_minute: int) -> None:
        self._gap, self._next, self._lock = 60 / per_minute if per_minute else 0.0, 0.0, Lock()

    def wait(self) -> None:
        """Sleep until the next request may start."""
        if not self._gap:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


def endpoint(settings: JudgeSettings) -> Complete:
    """Return the function that sends a request to the endpoint of the settings and waits for the reply.

    Raises:
        SftError: The package ``openai`` or the key is missing.
    """
    if find_spec("openai") is None:
        problem = "a judge at an endpoint needs openai, which is not installed"
        raise SftError(where="judge", problem=problem, fix="pip install 'sft-cli[eval]'")
    import openai

    key = os.environ.get(settings.api_key_variable) or ("none" if settings.base_url else "")
    if not key:
        problem = f"the environment variable {settings.api_key_variable} with the key of the endpoint is not set"
        fix = f"export {settings.api_key_variable}=KEY, or give --url of an endpoint that needs none"
        raise SftError(where="judge", problem=problem, fix=fix)
    # The client sends a request again after status 408, 409, 429, 5xx or a lost connection, and obeys Retry-After.
    client = openai.OpenAI(
        api_key=key, base_url=settings.base_url or None, timeout=settings.timeout, max_retries=settings.retries
    )
    limiter = RateLimiter(settings.requests_per_minute)

    def complete(request: JudgeRequest) -> Completion:
        """Return the reply to a request."""
        for _ in range(1 + MALFORMED_RETRIES):
            limiter.wait()
            began = time.monotonic()
            try:
                raw = client.chat.completions.with_raw_response.create(**_body(request, settings))
            except openai.OpenAIError as error:
                raise _as_sft_error(error, settings) from error
            if (reply := _read_reply(raw.http_response.text, request, time.monotonic() - began)) is not None:
                return reply
        problem = "the endpoint replies with status 200, but not with a chat completion"
        fix = f"check that --url ends where the API starts (often in /v1), {AGAIN}"
        raise SftError(where=_name(settings), problem=problem, fix=fix)

    return complete


def _body(request: JudgeRequest, settings: JudgeSettings) -> dict[str, Any]:
    """Return the parameters of a request."""
    body = {"model": settings.model, "messages": request.messages, "temperature": settings.temperature}
    body["max_tokens"] = settings.max_tokens
    if settings.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif settings.response_format == "json_schema":
        schema = {"name": "verdict", "strict": True, "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _read_reply(text: str, request: JudgeRequest, seconds: float) -> Completion | None:
    """Return the reply in the body of a response; None if it is not a chat completion."""
    try:
        body = json.loads(text)
        content = body["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    if not isinstance(content, str | None):
        return None
    usage, content = body.get("usage"), content or ""
    if isinstance(usage, Mapping) and all(
        isinstance(usage.get(f"{part}_tokens"), int) for part in ("prompt", "completion")
    ):
        return Completion(content, usage["prompt_tokens"], usage["completion_tokens"], seconds)
    asked = _estimated_tokens(request.system + request.content)
    return Completion(content, asked, _estimated_tokens(content), seconds, estimated=True)


def _estimated_tokens(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def _name(settings: JudgeSettings) -> str:
    return f"judge {settings.model} at {settings.base_url or 'api.openai.com'}"


def _as_sft_error(error: Exception, settings: JudgeSettings) -> SftError:
    """Return the error of the client as a problem with a fix."""
    import openai

    tries = 1 + settings.retries
    match error:
        case openai.APITimeoutError():
            problem = f"no reply within {settings.timeout:g} s, {tries} times"
            fix = f"raise --timeout or lower --concurrency, {AGAIN}"
        case openai.APIConnectionError():
            problem, fix = f"no connection, {tries} times ({error.__cause__ or error})", f"start the endpoint, {AGAIN}"
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            problem = f"the endpoint refuses the key (status {error.status_code})"
            fix = f"set the environment variable {settings.api_key_variable} to a valid key, {AGAIN}"
        case openai.NotFoundError():
            problem = f"the endpoint knows no such model or address: {_excerpt(error)}"
            fix = f"set --model to a model of the endpoint, and --url to its address, {AGAIN}"
        case openai.RateLimitError():
            problem = f"the endpoint limits the rate, still after {tries} tries: {_excerpt(error)}"
            fix = f"set --requests-per-minute to what the endpoint allows, {AGAIN}"
        case openai.APIStatusError() if error.status_code < 500:
            problem = f"the endpoint refuses the request (status {error.status_code}): {_excerpt(error)}"
            fix = f"if it does not know response_format, add --response-format none, {AGAIN}"
        case openai.APIStatusError():
            problem = f"the endpoint fails with status {error.status_code}, {tries} times: {_excerpt(error)}"
            fix = f"look at its log, {AGAIN}"
        case _:
            problem, fix = _excerpt(error), f"look at the log of the endpoint, {AGAIN}"
    return SftError(where=_name(settings), problem=problem, fix=fix)


def _excerpt(error: Exception) -> str:
    """Return the start of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
