"""A reverse proxy on loopback that passes every request to a server and records chat answers."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from sft_cli.serve.engine import HOST
from sft_cli.serve.recorder import CHAT, Recorder

HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}
"""Headers of one connection, which a proxy does not pass on; RFC 9110, 7.6.1."""
ENCODING_HEADER = "accept-encoding"
"""Not passed on, so that replies are not compressed and can be read."""
BLOCK = 64 * 1024


@contextmanager
def recording(port: int, server: str, recorder: Recorder) -> Iterator[str]:
    """Run the proxy in threads; yield its address.

    Args:
        port: The port of the proxy.
        server: Address of the server.
        recorder: Where to record.
    """
    proxy = ThreadingHTTPServer((HOST, port), handler_of(urlsplit(server).netloc, recorder))
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        proxy.shutdown()
        proxy.server_close()


def handler_of(server: str, recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    """Return the handler of requests for a server's ``host:port``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            """Pass the request on, and the reply back while it arrives."""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                self.send_error(411)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            skipped = {*HOP_HEADERS, ENCODING_HEADER}
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            upstream = http.client.HTTPConnection(server)
            try:
                upstream.request(self.command, self.path, body=body, headers=headers)
                reply = upstream.getresponse()
            except OSError as error:
                upstream.close()
                self.send_error(502, f"the server does not answer: {error}")
                return
            # Where the client goes away, closing the connection stops the server's answer, which is not recorded.
            with closing(upstream), suppress(ConnectionError):
                parts = self._pass_back(reply)
                if self.command == "POST" and urlsplit(self.path).path == CHAT and reply.status == 200:
                    recorder.record(body, reply.headers.get("Content-Type", ""), b"".join(parts))

        do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = forward

        def _pass_back(self, reply: http.client.HTTPResponse) -> list[bytes]:
            """Send a reply to the client in the parts in which it arrives; return the parts."""
            self.send_response(reply.status, reply.reason)
            for name, value in reply.headers.items():
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            length = reply.headers.get("Content-Length")
            chunked = length is None and self.request_version == "HTTP/1.1"
            if length is not None:
                self.send_header("Content-Length", length)
            elif chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            parts: list[bytes] = []
            while part := reply.read1(BLOCK):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                parts.append(part)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            return parts

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: the rows say what was asked."""

    return Handler
