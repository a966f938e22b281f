"""What every request passes: known host names, the token, and headers that forbid other origins and inline scripts."""

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "sft_board"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""Content Security Policy of the board's own pages."""
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
"""Policy of report.html files, which hold their style and script: without an origin they cannot read the board."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # no-referrer makes browsers send forms with the origin null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the board.

    Attributes:
        token: The token that stops runs, and that reads if ``read_needs_token``.
        read_needs_token: Whether reading needs the token, too.
        hosts: Host names that requests may name; empty allows all. A page elsewhere whose host name is made to
            resolve to this machine sends its own.
    """

    token: str
    read_needs_token: bool
    hosts: tuple[str, ...] = LOOPBACK_NAMES


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is one of this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Refuses requests of unknown hosts and without a needed token, and adds ``HEADERS`` to answers."""

    def __init__(self, app: "ASGIApp", access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse, RedirectResponse

        async def guarded(message: Any) -> None:
            """Send a message with the headers of every answer."""
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in names)]
            await send(message)

        answer: ASGIApp = self._app
        if not self._knows_host(scope):
            answer = PlainTextResponse("unknown host name", status_code=400)
        elif (target := self._token_in_address(scope)) is not None:
            answer = RedirectResponse(target, status_code=303)
            answer.set_cookie(COOKIE, self._access.token, httponly=True, samesite="strict")
        elif not self._is_allowed(scope):
            answer = PlainTextResponse("this needs the token: open the address that sft board printed", status_code=403)
        await answer(scope, receive, guarded)

    def _knows_host(self, scope: "Scope") -> bool:
        """Return whether a request names a host name of the board."""
        name = _header(scope, b"host")
        name = name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() else name
        return not self._access.hosts or name in self._access.hosts

    def _token_in_address(self, scope: "Scope") -> str | None:
        """Return the address without its token, if it holds the right one."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] != "GET" or not any(name == "token" and self._is_token(value) for name, value in query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/")  # //host would be another server
        return path + (f"?{rest}" if rest else "")

    def _is_allowed(self, scope: "Scope") -> bool:
        """Return whether a request may be answered."""
        reads = scope["method"] in ("GET", "HEAD")
        if reads and not self._access.read_needs_token:
            return True
        origin = _header(scope, b"origin")
        if not reads and origin and origin.partition("://")[2] != _header(scope, b"host"):
            return False
        return any(self._is_token(text) for text in _sent_tokens(scope))

    def _is_token(self, text: str) -> bool:
        """Compare a text with the token in constant time."""
        return hmac.compare_digest(text.encode(), self._access.token.encode())


def _sent_tokens(scope: "Scope") -> Iterable[str]:
    """Yield the tokens of a request: of its Authorization header and of its cookie."""
    yield _header(scope, b"authorization").removeprefix("Bearer ")
    try:
        cookie = SimpleCookie(_header(scope, b"cookie")).get(COOKIE)
    except CookieError:
        return
    if cookie is not None:
        yield cookie.value


def _header(scope: "Scope", name: bytes) -> str:
    """Return a header of a request; an empty text without it."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
