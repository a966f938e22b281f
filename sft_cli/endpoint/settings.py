"""Settings of an endpoint, and what they are called where they are typed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where an endpoint is, and how it is asked.

    Attributes:
        model: Name of the model at the endpoint.
        base_url: Address of an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; empty is OpenAI's.
        api_key_variable: Environment variable with the key; an endpoint given by ``base_url`` may need none.
        requests_per_minute: Most requests started within a minute; 0 is no limit.
        timeout: Seconds until a request counts as failed.
        retries: How often a request is sent again after status 408, 409, 429, 5xx, or a lost connection.
    """

    model: str
    base_url: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    requests_per_minute: int = 0
    timeout: float = 60.0
    retries: int = 5


@dataclass(frozen=True, slots=True)
class SettingNames:
    """What the user of a client types, for the fixes of errors.

    Attributes:
        owner: What asks the endpoint, such as ``judge``.
        missing: What needs the package openai, such as ``a judge at an endpoint``.
        url: Setting of the address.
        model: Setting of the model.
        timeout: Setting of the time-out.
        concurrency: Setting of the number of requests at once.
        requests_per_minute: Setting of the rate.
        rejected: What to change if the endpoint refuses a request.
    """

    owner: str
    missing: str
    url: str
    model: str
    timeout: str
    concurrency: str
    requests_per_minute: str
    rejected: str
