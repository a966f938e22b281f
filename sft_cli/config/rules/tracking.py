"""Rules of the keys of ``notify`` that go beyond types and limits."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from sft_cli.config.redaction import masked_address
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import ConfigError

SECRET_CHARACTERS = 20
"""Number of characters from which a part of a path counts as a secret: webhooks of chat services have such parts."""


def check_tracking_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in ``notify.url``: not an address of the web, or one that holds a secret."""
    url = config.notify.url
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:  # for example an unclosed bracket
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        yield ConfigError(
            "notify.url",
            f"notify.url is {masked_address(url)!r}; it must begin with http:// or https://",
            "notify.url=https://HOST/PATH",
        )
    elif masked_address(url) != url or any(len(part) >= SECRET_CHARACTERS for part in parts.path.split("/")):
        yield ConfigError(
            "notify.url",
            "notify.url holds what looks like a secret, which a run directory must not hold",
            "remove it, and export SFT_NOTIFY_URL='ADDRESS' in the shell",
        )
