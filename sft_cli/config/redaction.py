"""What an address may hold in secret: refused where it is a password, masked in whatever is written or printed."""

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
"""How the names of parameters speak that open an address: X-Amz-Signature, sig, authkey, Key-Pair-Id, access_token."""
_BUCKETS = ("s3", "gs", "hf")
"""Addresses without a query: there ? and # belong to a pattern or a name."""
_LONG = 20
"""Characters of one word from which a value is taken for a secret, whatever its name."""


_WITHIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_TOKEN = re.compile(
    r"(?<![\w-])(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9][\w-]{19,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})"
)
"""Access tokens that say what they are: Hugging Face, OpenAI and those who copy it, GitHub, GitLab, Amazon."""
_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)$")
"""How the names of environment variables end that hold a secret."""
_SHORTEST = 8
"""Characters of such a variable's value; shorter ones are words such as ``false``."""


def redact_secrets(text: str) -> str:
    """A text with every address in it masked, every access token, and every value of a secret of the environment."""
    held = {value for name, value in os.environ.items() if _VARIABLE.search(name.upper()) and len(value) >= _SHORTEST}
    for secret in sorted(held, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _TOKEN.sub(MASK, _WITHIN.sub(lambda found: masked_address(found[0]), text))


def is_address(text: str) -> bool:
    """Whether a text is an address, such as ``s3://bucket/rows.jsonl``."""
    return _ADDRESS.match(text) is not None


def masked_address(address: str) -> str:
    """The address with ``***`` for user and password, for every query value that may be a secret, and the fragment.

    Whatever signs the same file gives the same text; masking twice changes nothing.
    """
    if not is_address(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:  # no address a server could have, such as one with half a bracket
        return address.partition("://")[0] + "://" + MASK
    user, _, host = parts.netloc.rpartition("@")
    before, query, fragment = address.partition("://")[2].removeprefix(parts.netloc), "", ""
    if parts.scheme not in _BUCKETS:
        before, query, fragment = parts.path, parts.query, parts.fragment
    query = "?" + "&".join(map(_masked_pair, query.split("&"))) if query else ""
    return f"{parts.scheme}://{MASK + '@' if user else ''}{host}{before}{query}{'#' + MASK if fragment else ''}"


def is_masked(address: str) -> bool:
    """Whether an address was masked, so that no server would take it."""
    return address.partition("://")[0] not in _BUCKETS and is_address(address) and MASK in address.partition("?")[2]


def redact_values(value: Any) -> Any:
    """Plain values in which every text that is an address is masked; all else as it is."""
    if isinstance(value, dict):
        return {name: redact_values(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [redact_values(entry) for entry in value]
    return masked_address(value) if isinstance(value, str) else value


def check_secrets(config: Config) -> Iterator[ConfigError]:
    """Addresses with a user or password, and tokens: these are not kept, and a run cannot be resumed without them."""
    for key, text in _texts(to_plain(config), ""):
        if _TOKEN.search(text):
            problem = f"{key} holds what looks like an access token, which a run directory must not hold"
            yield ConfigError(key, problem, "leave it out, and set its variable (HF_TOKEN, …) in the environment")
    addresses = {
        f"clean.contamination.against.{name}": path for name, path in config.clean.contamination.against.items()
    }
    for name, source in config.data.mix.items():
        addresses[f"data.mix.{name}.path"] = source.path or ""
        addresses[f"data.mix.{name}.validation_path"] = source.validation_path or ""
    for name, probe in config.trainer.retention.probes.items():
        addresses[f"trainer.retention.probes.{name}.path"] = probe.path or ""
    for key, address in addresses.items():
        shown = masked_address(address)
        if f"{MASK}@" in shown:
            yield ConfigError(
                key,
                f"{key} is {shown!r}, with a user or password in it, which a run directory must not hold",
                _KEPT.get(address.partition("://")[0].lower(), "leave it out of the address"),
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of plain values with its key."""
    if isinstance(value, str):
        yield key, value
    for name, entry in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from _texts(entry, f"{key}.{name}" if key else str(name))


_NETRC = "leave it out, and write `machine HOST login USER password PASSWORD` into ~/.netrc"
_KEPT = {
    "https": _NETRC,
    "http": _NETRC,
    "s3": "leave it out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "leave it out, and run gcloud auth application-default login",
    "hf": "leave it out, and run hf auth login",
}
"""Where each scheme's credentials belong."""


def _masked_pair(pair: str) -> str:
    """One ``name=value`` of a query, its value masked if it may be a secret."""
    name, equals, value = pair.partition("=")
    if not equals:
        return MASK if len(name) >= _LONG else pair
    return f"{name}={MASK}" if value and (_NAMES.search(name) or len(value) >= _LONG) else pair
