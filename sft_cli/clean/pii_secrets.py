"""Find keys, tokens and passwords, by the forms that their issuers document."""

import re
from collections.abc import Iterator
from typing import NamedTuple


class SecretForm(NamedTuple):
    """The form of one kind of key.

    Attributes:
        needle: Text that every such key contains, searched first because that is fast.
        pattern: The key; group 1, if there is one, is the secret part.
    """

    needle: str
    pattern: re.Pattern[str]


def _form(needle: str, pattern: str) -> SecretForm:
    """Return a form with a compiled pattern."""
    return SecretForm(needle, re.compile(pattern))


_MIXED = r"(?=[\w-]*\d)(?=[\w-]*[A-Z])"  # a digit and a capital: not words joined by hyphens
_KEY = r"(?:[A-Z]+ ){0,2}PRIVATE KEY(?: BLOCK)?"
SECRETS = (
    *(_form(prefix, rf"(?<!\w){prefix}[A-Z0-9]{{16}}(?!\w)") for prefix in ("AKIA", "ASIA")),  # AWS access key ids
    _form("aws", r"(?i:aws_?secret_?(?:access_?)?key\W{1,6})([A-Za-z0-9/+=]{40})(?![A-Za-z0-9/+=])"),
    _form("AWS", r"(?:AWS_?SECRET_?(?:ACCESS_?)?KEY\W{1,6})([A-Za-z0-9/+=]{40})(?![A-Za-z0-9/+=])"),
    _form("gh", r"(?<!\w)gh[pousr]_[A-Za-z0-9]{36,255}(?!\w)"),  # GitHub
    _form("github_pat_", r"(?<!\w)github_pat_\w{22,255}(?!\w)"),
    _form("glpat-", r"(?<!\w)glpat-[\w-]{20,64}(?!\w)"),  # GitLab
    _form("xox", r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,250}(?!\w)"),  # Slack
    _form("hooks.slack.com", r"(?<=hooks\.slack\.com/services/)(T\w{6,12}/B\w{6,12}/\w{16,32})(?!\w)"),
    _form("k_live_", r"(?<!\w)[srp]k_live_[A-Za-z0-9]{16,255}(?!\w)"),  # Stripe
    _form("k_test_", r"(?<!\w)[srp]k_test_[A-Za-z0-9]{16,255}(?!\w)"),
    _form("whsec_", r"(?<!\w)whsec_[A-Za-z0-9+/=]{24,100}(?!\w)"),
    _form("AIza", r"(?<!\w)AIza[\w-]{35}(?![\w-])"),  # Google
    _form("GOCSPX-", r"(?<!\w)GOCSPX-[\w-]{28}(?![\w-])"),
    _form("ya29.", r"(?<!\w)ya29\.[\w-]{30,500}(?![\w-])"),
    _form("sk-", rf"(?<![\w-])sk-{_MIXED}[\w-]{{20,250}}(?!\w)"),  # OpenAI, Anthropic and compatible services
    _form("hf_", r"(?<!\w)hf_[A-Za-z0-9]{30,60}(?!\w)"),  # Hugging Face
    _form("npm_", r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)"),
    _form("pypi-", r"(?<!\w)pypi-AgE[\w-]{50,250}(?!\w)"),
    _form("SG.", r"(?<!\w)SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),  # SendGrid
    _form("dop_v1_", r"(?<!\w)dop_v1_[a-f0-9]{64}(?!\w)"),  # DigitalOcean
    _form("eyJ", r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}"),  # JSON web token (RFC 7519)
    _form(
        "PRIVATE KEY",
        rf"-----BEGIN {_KEY}-----(?=[^<>\"]{{0,200}}?[A-Za-z0-9+/=]{{24}})(?:[^<>\"]{{24,8000}}?-----END {_KEY}-----"
        r"|\s*(?:[A-Za-z0-9+/=]{24,}\s*)+)",  # complete, or truncated
    ),
    _form("://", r"[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/@<>'\"]{1,100}:([^\s@/<>'\"]{3,100})@(?=[\w\[])"),
)
PLACEHOLDER_PASSWORD = re.compile(
    r"[*x.•]+|[\[{$%].*|(?:your|my|the|some)?[_-]?(?:pass(?:word|wd)?|pwd|secret|token|key)", re.IGNORECASE
)
"""Placeholders for a password in a URL."""


def secret_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield character ranges of keys, tokens, private keys, and passwords in URLs (only the password)."""
    for secret in SECRETS:
        if secret.needle not in text:
            continue
        for match in secret.pattern.finditer(text):
            start, end = match.span(1 if secret.pattern.groups else 0)
            if secret.needle != "://" or not PLACEHOLDER_PASSWORD.fullmatch(match[1]):
                yield start, end
