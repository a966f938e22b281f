"""Settings of a judge, and the limits above which its scores are withheld."""

from dataclasses import dataclass
from typing import Literal

from sft_cli.endpoint.settings import EndpointSettings

ResponseFormat = Literal["json_schema", "json_object", "none"]


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is asked.

    Attributes:
        model: Name of the judge's model at the endpoint.
        base_url: Address of an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; empty is OpenAI's.
        api_key_variable: Environment variable with the key; an endpoint given by ``base_url`` may need none.
        temperature: Temperature of sampling.
        max_tokens: Most tokens of one reply.
        response_format: How the endpoint is asked for JSON; ``none`` where it knows neither of the others.
        concurrency: Most requests at the same time.
        requests_per_minute: Most requests started within a minute; 0 is no limit.
        timeout: Seconds until a request counts as failed.
        retries: How often a request is sent again after status 408, 409, 429, 5xx, or a lost connection.
        attempts: How often a reply is requested until it parses.
        price_input: Price of a million tokens of requests, in any currency.
        price_output: Price of a million tokens of replies.
        max_cost: Cost at which no request is sent any more, in the currency of the prices; 0 is no limit.
        max_total_tokens: Tokens of requests and replies at which none is sent any more; 0 is no limit.
        probes: Number of items on which null and truncated answers are judged for the audit.
    """

    model: str
    base_url: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_tokens: int = 1024
    response_format: ResponseFormat = "json_schema"
    concurrency: int = 4
    requests_per_minute: int = 0
    timeout: float = 60.0
    retries: int = 5
    attempts: int = 2
    price_input: float = 0.0
    price_output: float = 0.0
    max_cost: float = 0.0
    max_total_tokens: int = 0
    probes: int = 20

    @property
    def endpoint(self) -> EndpointSettings:
        """The part of the settings that the client reads."""
        return EndpointSettings(
            self.model, self.base_url, self.api_key_variable, self.requests_per_minute, self.timeout, self.retries
        )


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """Limits of the audit; a score is withheld if a measured value is beyond one.

    Attributes:
        flips: Largest share of pairs whose verdict depends on the order of the answers.
        length_slope: Largest slope of the log-odds of a win with length, at equal quality (``fit_length_control``).
        null_wins: Largest win rate of an answer without content.
        truncated_wins: Largest win rate of an answer's first half against the whole answer.
        reworded_losses: Largest distance from 0.5 of the win rate of a reworded reference against the reference.
        parse_failures: Largest share of replies without a verdict.
        kappa: Smallest agreement with labels beyond chance (Cohen's kappa).
        repeated_answers: Largest share of items answered with one and the same text.
        judge_markers: Largest share of answers that contain markup of a judge's prompt.
    """

    flips: float = 0.25
    length_slope: float = 3.0
    null_wins: float = 0.1
    truncated_wins: float = 0.4
    reworded_losses: float = 0.25
    parse_failures: float = 0.05
    kappa: float = 0.2
    repeated_answers: float = 0.2
    judge_markers: float = 0.02
