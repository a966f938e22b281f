"""Answer the items of a suite with a model that an OpenAI-compatible server holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from sft_cli.config.schema.suites import EndpointConfig
from sft_cli.endpoint.client import Completion, EndpointClient
from sft_cli.endpoint.settings import EndpointSettings
from sft_cli.eval.engine.reasoning import REASONING_TAGS, split_reasoning
from sft_cli.eval.engine.run import AnswerItems, Pending, Records
from sft_cli.eval.engine.sampling import answer_seed
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.results import answer_head

SEEDS = 2**31
"""Servers take seeds below this number."""
STOPPED = ("stop", "tool_calls")
"""Reasons of an endpoint for the end of an answer that the model ended itself."""
LENGTH = "length"
"""Reason for the end of an answer that reached a limit."""


@dataclass(frozen=True, slots=True)
class EndpointModel:
    """A model at an endpoint.

    Attributes:
        client: The client.
        max_new_tokens: Longest answer of a suite without a limit of its own.
        concurrency: Most requests at the same time.
        variables: ``template.variables``, which the server gives to its template.
    """

    client: EndpointClient
    max_new_tokens: int
    concurrency: int
    variables: Mapping[str, Any] = field(default_factory=dict)


def endpoint_settings(endpoint: EndpointConfig, model: str) -> EndpointSettings:
    """Return what the client reads of the config of an endpoint."""
    return EndpointSettings(
        model,
        endpoint.url or "",
        endpoint.api_key_variable,
        endpoint.requests_per_minute,
        endpoint.timeout,
        endpoint.retries,
    )


def served_answers(model: EndpointModel) -> AnswerItems:
    """Return the function that answers items by requests, several at once.

    A line is yielded when its reply is there. If a limit is reached or a request fails, no further request is sent;
    those on their way are still waited for, since they are paid.
    """

    def answer(suite: LoadedSuite, pending: Pending, limits: EvalLimits) -> Records:
        """Yield the line of each reply."""
        waiting = iter(pending)
        running: dict[Future[Completion], tuple[SuiteItem, int]] = {}
        failed: BaseException | None = None
        pool = ThreadPoolExecutor(model.concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                while failed is None and len(running) < model.concurrency and not limits.reached():
                    if (place := next(waiting, None)) is None:
                        break
                    running[pool.submit(model.client.send, request_body(model, suite, *place))] = place
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    place = running.pop(future)
                    if (error := future.exception()) is not None:
                        failed = failed or error
                    else:
                        yield [_record(model, suite, *place, future.result())]
        finally:
            pool.shutdown(cancel_futures=True)
        if failed is not None:
            raise failed

    return answer


def request_body(model: EndpointModel, suite: LoadedSuite, entry: SuiteItem, sample: int) -> dict[str, Any]:
    """Return the parameters of the request for an answer."""
    config = suite.config
    body: dict[str, Any] = {
        "messages": [dict(message) for message in entry.item.messages],
        "max_tokens": config.max_new_tokens or model.max_new_tokens,
        "temperature": config.temperature,
    }
    if config.temperature:
        body |= {"top_p": config.top_p, "seed": answer_seed(config.seed, entry.item.id, sample) % SEEDS}
    if config.stop:
        body["stop"] = list(config.stop)
    if entry.tools is not None:
        body["tools"] = [dict(tool) for tool in entry.tools]
    if model.variables:
        body["extra_body"] = {"chat_template_kwargs": dict(model.variables)}
    return body


def _record(
    model: EndpointModel, suite: LoadedSuite, entry: SuiteItem, sample: int, reply: Completion
) -> dict[str, Any]:
    """Return the line of a reply."""
    limit = suite.config.max_new_tokens or model.max_new_tokens
    reasoning, text = split_reasoning("", reply.text, REASONING_TAGS)
    ended = [text.index(stop) for stop in suite.config.stop if stop in text]
    text = text[: min(ended)] if ended else text
    if reply.tool_calls:
        text = "\n".join([*([text] if text.strip() else []), *_call_lines(reply.tool_calls)])
    is_short = reply.output_tokens < limit
    return {
        **answer_head(entry, sample, conversation_text(entry.item.messages)),
        "answer": text,
        "reasoning": reply.reasoning or reasoning,
        "stopped": reply.finish in STOPPED or bool(ended) or (not reply.finish and is_short),
        "num_tokens": reply.output_tokens,
        "input_tokens": reply.input_tokens,
        "cut": reply.finish == LENGTH and is_short,
    }


def _call_lines(calls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield calls that the server has read from the answer, in the form that models write."""
    for call in calls:
        function = call.get("function") or {}
        call_text = json.dumps({"name": function.get("name"), "arguments": _arguments(function)}, ensure_ascii=False)
        yield f"<tool_call>\n{call_text}\n</tool_call>"


def _arguments(function: Mapping[str, Any]) -> Any:
    """Return the arguments of a call, which the API sends as JSON text."""
    arguments = function.get("arguments")
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def conversation_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return a conversation as text, for tables and judges; the template of the server is unknown."""
    if len(messages) == 1:
        return str(messages[0].get("content") or "")
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)
