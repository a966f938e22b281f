"""Explain what can go wrong with a remote file, in one sentence each.

Messages of client libraries are never repeated: they may contain the whole address with signature and password.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

from sft_cli.config.redaction import MASK, masked_address
from sft_cli.errors import SftError

SIGN_IN = {
    "https": "give an address that opens without signing in; a signed one may have expired",
    "http": "give an address that opens without signing in; a signed one may have expired",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "gcloud auth application-default login; for a public bucket FSSPEC_GS_TOKEN=anon",
    "hf": "hf auth login, and accept the terms of a gated data set on its page",
}
NOT_FOUND = {
    "hf": "check the address; data sets are hf://datasets/OWNER/NAME/FILE, private ones need hf auth login",
}


class Unreachable(SftError):
    """A server that cannot be reached."""


@contextmanager
def translate_errors(url: str, shown: str, key: str) -> Iterator[None]:
    """Convert errors of a client library to errors of the source."""
    try:
        yield
    except _client_errors(url) as error:
        raise explain_failure(error, url, shown, key) from None


def explain_failure(error: BaseException, url: str, shown: str, key: str) -> SftError:
    """Return the error that explains a client error."""
    from aiohttp import ClientPayloadError

    scheme = urlsplit(url).scheme
    host = urlsplit(shown).netloc if scheme in ("https", "http") else {"hf": "the hub"}.get(scheme, f"{scheme}://")
    status = _http_status(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        problem, fix = (
            f"the disk is full, {shown!r} cannot be stored",
            "free disk space, or export SFT_HOME=DIR on a larger disk",
        )
    elif isinstance(error, ClientPayloadError):
        problem, fix = f"the connection to {host} was lost while {shown!r} was read", "run the command again"
    elif status is None:
        fix = f"{key}=URL with the right address, or run the command again with a network"
        return Unreachable(where=key, problem=f"{host} cannot be reached for {shown!r}", fix=fix)
    elif status in (404, 410):
        problem, fix = f"{shown!r} does not exist", NOT_FOUND.get(scheme, "check the address")
    elif status in (401, 403, 407):
        problem, fix = f"{host} refuses access to {shown!r}", SIGN_IN[scheme]
    else:
        problem, fix = f"{host} answered {status} for {shown!r}", "run the command again later"
    return SftError(where=key, problem=problem, fix=fix)


def signature_not_stored(url: str, shown: str, key: str) -> Unreachable:
    """Return the error for an address in a run directory, whose signature is masked."""
    problem = f"the signature of {shown!r} is not stored with a run"
    fix = f"give the whole address again: {key}='{masked_address(url).replace(MASK, '…')}'"
    return Unreachable(where=key, problem=problem, fix=fix)


def unusable_address(key: str, problem: str) -> SftError:
    """Return the error for an address that is not a file."""
    fix = f"{key}=URL of the file itself (on GitHub the raw one; on the hub owner/name, hf://datasets/…)"
    return SftError(where=key, problem=problem, fix=fix)


def _client_errors(url: str) -> tuple[type[BaseException], ...]:
    """Return the exceptions of the client libraries of a scheme; they have no common base class."""
    import aiohttp
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    errors: list[type[BaseException]] = [OSError, aiohttp.ClientError, HTTPError]
    if urlsplit(url).scheme == "s3" and find_spec("botocore"):
        from botocore.exceptions import BotoCoreError, ClientError

        errors += [BotoCoreError, ClientError]
    if urlsplit(url).scheme == "gs" and find_spec("gcsfs"):
        from gcsfs.retry import HttpError  # pyright: ignore[reportMissingImports]
        from google.auth.exceptions import GoogleAuthError  # pyright: ignore[reportMissingImports]

        errors += [HttpError, GoogleAuthError]
    return tuple(errors)


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, or the nearest equivalent; None if no server answered."""
    import aiohttp
    from huggingface_hub.errors import HfHubHTTPError

    nearest: int | None = None
    seen: BaseException | None = error
    while seen is not None:
        name = type(seen).__name__
        if isinstance(seen, aiohttp.ClientResponseError):
            return seen.status
        if isinstance(seen, HfHubHTTPError):
            return seen.response.status_code
        if isinstance(seen, PermissionError) or name in ("NoCredentialsError", "DefaultCredentialsError"):
            return 403
        if isinstance(seen, aiohttp.ClientConnectionError | ConnectionError | TimeoutError):
            return None
        if isinstance(seen, FileNotFoundError):
            nearest = 404
        seen = seen.__cause__ or seen.__context__
    return nearest
