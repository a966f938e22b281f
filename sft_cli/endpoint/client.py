"""Ask an OpenAI-compatible endpoint. The client of the package ``openai`` is imported when it is needed."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock
from typing import Any

from sft_cli.endpoint.settings import EndpointSettings, SettingNames
from sft_cli.errors import SftError

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


@dataclass(frozen=True, slots=True)
class Completion:
    """The reply to a request.

    Attributes:
        text: The text of the reply.
        input_tokens: Tokens of the request.
        output_tokens: Tokens of the reply.
        seconds: Time from the request to the reply.
        estimated: Whether the endpoint did not report tokens, so that they are estimated from the texts.
        finish: Why the reply ended, as the endpoint says: ``stop``, ``length``, ``tool_calls``; empty if it does not.
        reasoning: The reasoning, if the endpoint splits it off.
        tool_calls: The calls of tools, if the endpoint reads them.
    """

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float
    estimated: bool = False
    finish: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()


class EndpointClient:
    """Sends requests to an endpoint; safe for several threads.

    Raises:
        SftError: The package ``openai`` or the key is missing.
    """

    def __init__(self, settings: EndpointSettings, names: SettingNames) -> None:
        """Create the client.

        Args:
            settings: The endpoint.
            names: What the settings are called, for errors.
        """
        if find_spec("openai") is None:
            problem = f"{names.missing} needs openai, which is not installed"
            raise SftError(where=names.owner, problem=problem, fix="pip install 'sft-cli[eval]'")
        import openai

        variable = settings.api_key_variable
        key = os.environ.get(variable) or ("none" if settings.base_url else "")
        if not key:
            problem = f"the environment variable {variable} with the key of the endpoint is not set"
            fix = f"export {variable}=KEY, or give {names.url} of an endpoint that needs none"
            raise SftError(where=names.owner, problem=problem, fix=fix)
        # It sends a request again after status 408, 409, 429, 5xx or a lost connection, and obeys Retry-After.
        self._client = openai.OpenAI(
            api_key=key, base_url=settings.base_url or None, timeout=settings.timeout, max_retries=settings.retries
        )
        self._settings, self._names = settings, names
        self._limiter = RateLimiter(settings.requests_per_minute)

    def send(self, body: Mapping[str, Any]) -> Completion:
        """Send a request for a chat completion, and wait for the reply.

        Args:
            body: The parameters of the request, with ``messages`` and without ``model``.

        Raises:
            SftError: The endpoint failed.
        """
        import openai

        for _ in range(1 + MALFORMED_RETRIES):
            self._limiter.wait()
            began = time.monotonic()
            try:
                raw = self._client.chat.completions.with_raw_response.create(model=self._settings.model, **body)
            except openai.OpenAIError as error:
                raise _as_sft_error(error, self._settings, self._names) from error
            if (reply := _read_reply(raw.http_response.text, body, time.monotonic() - began)) is not None:
                return reply
        problem = "the endpoint replies with status 200, but not with a chat completion"
        fix = f"check that {self._names.url} ends where the API starts (often in /v1), {AGAIN}"
        raise SftError(where=_name(self._settings, self._names), problem=problem, fix=fix)


def _read_reply(text: str, request: Mapping[str, Any], seconds: float) -> Completion | None:
    """Return the reply in the body of a response; None if it is not a chat completion."""
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        content = message["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    if not isinstance(content, str | None):
        return None
    usage, content = body.get("usage"), content or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    more = {
        "finish": str(choice.get("finish_reason") or ""),
        "reasoning": reasoning if isinstance(reasoning, str) else "",
        "tool_calls": tuple(call for call in message.get("tool_calls") or () if isinstance(call, Mapping)),
    }
    if isinstance(usage, Mapping) and all(
        isinstance(usage.get(f"{part}_tokens"), int) for part in ("prompt", "completion")
    ):
        return Completion(content, usage["prompt_tokens"], usage["completion_tokens"], seconds, **more)
    asked = _estimated_tokens("".join(str(message.get("content") or "") for message in request["messages"]))
    return Completion(content, asked, _estimated_tokens(content), seconds, estimated=True, **more)


def _estimated_tokens(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def _name(settings: EndpointSettings, names: SettingNames) -> str:
    return f"{names.owner} {settings.model} at {settings.base_url or 'api.openai.com'}"


def _as_sft_error(error: Exception, settings: EndpointSettings, names: SettingNames) -> SftError:
    """Return the error of the client as a problem with a fix."""
    import openai

    tries = 1 + settings.retries
    match error:
        case openai.APITimeoutError():
            problem = f"no reply within {settings.timeout:g} s, {tries} times"
            fix = f"raise {names.timeout} or lower {names.concurrency}, {AGAIN}"
        case openai.APIConnectionError():
            problem, fix = f"no connection, {tries} times ({error.__cause__ or error})", f"start the endpoint, {AGAIN}"
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            problem = f"the endpoint refuses the key (status {error.status_code})"
            fix = f"set the environment variable {settings.api_key_variable} to a valid key, {AGAIN}"
        case openai.NotFoundError():
            problem = f"the endpoint knows no such model or address: {_excerpt(error)}"
            fix = f"set {names.model} to a model of the endpoint, and {names.url} to its address, {AGAIN}"
        case openai.RateLimitError():
            problem = f"the endpoint limits the rate, still after {tries} tries: {_excerpt(error)}"
            fix = f"set {names.requests_per_minute} to what the endpoint allows, {AGAIN}"
        case openai.APIStatusError() if error.status_code < 500:
            problem = f"the endpoint refuses the request (status {error.status_code}): {_excerpt(error)}"
            fix = f"{names.rejected}, {AGAIN}"
        case openai.APIStatusError():
            problem = f"the endpoint fails with status {error.status_code}, {tries} times: {_excerpt(error)}"
            fix = f"look at its log, {AGAIN}"
        case _:
            problem, fix = _excerpt(error), f"look at the log of the endpoint, {AGAIN}"
    return SftError(where=_name(settings, names), problem=problem, fix=fix)


def _excerpt(error: Exception) -> str:
    """Return the start of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
