"""Keep secrets out of files and messages: refuse passwords in addresses, mask signatures and tokens."""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sft_cli.config.schema.config import Config
from sft_cli.config.validate import ConfigError, to_plain

MASK = "***"

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAMES = re.compile(r"sig|token|key|secret|pass|pwd|auth|credential|policy|session|jwt|code", re.IGNORECASE)
"""Patterns in the names of query parameters that grant access: X-Amz-Signature, sig, authkey, access_token."""
_BUCKETS = ("s3", "gs", "hf")
"""Schemes of addresses without a query, in which ? and # belong to a pattern or a name."""
_LONG = 20
"""Number of characters from which a value counts as a secret, whatever its name."""


_WITHIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_TOKEN = re.compile(
    r"(?<![\w-])(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9][\w-]{19,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})"
)
"""Access tokens with a known prefix: Hugging Face, OpenAI and compatible services, GitHub, GitLab, Amazon."""
_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)$")
"""Endings of the names of environment variables that hold a secret."""
_SHORTEST = 8
"""Fewest characters of a secret variable's value; shorter ones are words such as ``false``."""


def redact_secrets(text: str) -> str:
    """Return a text in which addresses, access tokens and secrets of the environment are masked."""
    secrets = {
        value for name, value in os.environ.items() if _VARIABLE.search(name.upper()) and len(value) >= _SHORTEST
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _TOKEN.sub(MASK, _WITHIN.sub(lambda match: masked_address(match[0]), text))


def is_address(text: str) -> bool:
    """Return whether a text is an address, such as ``s3://bucket/rows.jsonl``."""
    return _ADDRESS.match(text) is not None


def masked_address(address: str) -> str:
    """Return the address with ``***`` for user and password, query values that may be secret, and the fragment.

    All signed addresses of one file give the same text; masking twice changes nothing.
    """
    if not is_address(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:  # not a valid address, for example one with an unclosed bracket
        return address.partition("://")[0] + "://" + MASK
    user, _, host = parts.netloc.rpartition("@")
    path, query, fragment = address.partition("://")[2].removeprefix(parts.netloc), "", ""
    if parts.scheme not in _BUCKETS:
        path, query, fragment = parts.path, parts.query, parts.fragment
    query = "?" + "&".join(map(_masked_pair, query.split("&"))) if query else ""
    return f"{parts.scheme}://{MASK + '@' if user else ''}{host}{path}{query}{'#' + MASK if fragment else ''}"


def is_masked(address: str) -> bool:
    """Return whether an address was masked, so that no server would accept it."""
    return address.partition("://")[0] not in _BUCKETS and is_address(address) and MASK in address.partition("?")[2]


def redact_values(value: Any) -> Any:
    """Return plain values with every address masked, otherwise unchanged."""
    if isinstance(value, dict):
        return {name: redact_values(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [redact_values(entry) for entry in value]
    return masked_address(value) if isinstance(value, str) else value


def check_secrets(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each address with a user or password, and each token: these must not be stored."""
    for key, text in _texts(to_plain(config), ""):
        if _TOKEN.search(text):
            problem = f"{key} holds what looks like an access token, which a run directory must not hold"
            yield ConfigError(key, problem, "remove it, and set its variable (HF_TOKEN, …) in the environment")
    addresses = {
        f"clean.contamination.against.{name}": path for name, path in config.clean.contamination.against.items()
    }
    for name, source in config.data.mix.items():
        addresses[f"data.mix.{name}.path"] = source.path or ""
        addresses[f"data.mix.{name}.validation_path"] = source.validation_path or ""
    for name, probe in config.trainer.retention.probes.items():
        addresses[f"trainer.retention.probes.{name}.path"] = probe.path or ""
    for name, suite in config.eval.suites.items():
        addresses[f"eval.suites.{name}.path"] = suite.path or ""
    for key, address in addresses.items():
        masked = masked_address(address)
        if f"{MASK}@" in masked:
            yield ConfigError(
                key,
                f"{key} is {masked!r}, with a user or password in it, which a run directory must not hold",
                _KEPT.get(address.partition("://")[0].lower(), "remove it from the address"),
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text of plain values with its key."""
    if isinstance(value, str):
        yield key, value
    for name, entry in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from _texts(entry, f"{key}.{name}" if key else str(name))


_NETRC = "remove it, and write `machine HOST login USER password PASSWORD` into ~/.netrc"
_KEPT = {
    "https": _NETRC,
    "http": _NETRC,
    "s3": "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "remove it, and run gcloud auth application-default login",
    "hf": "remove it, and run hf auth login",
}
"""Scheme -> where its credentials belong."""


def _masked_pair(pair: str) -> str:
    """Return one ``name=value`` of a query, its value masked if it may be a secret."""
    name, equals, value = pair.partition("=")
    if not equals:
        return MASK if len(name) >= _LONG else pair
    return f"{name}={MASK}" if value and (_NAMES.search(name) or len(value) >= _LONG) else pair
