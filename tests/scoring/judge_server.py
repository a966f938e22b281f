"""A local HTTP server that speaks the API of chat completions, with faults on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Judge = Callable[[dict[str, Any]], str | dict[str, Any]]
"""Function from the JSON document of a request to the text of the reply, or to a whole choice."""


@dataclass
class JudgeServer:
    """A running server.

    Attributes:
        judge: Answers requests that meet no fault.
        faults: Faults of the next requests, in order: a status, ``cut``, ``slow``, ``html``, ``no choices``, ``null``.
        bodies: The body of every request received.
        most_at_once: Most requests that were being answered at the same time.
    """

    judge: Judge
    faults: list[Any] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    delay: float = 0.0
    usage: bool = True
    most_at_once: int = 0
    active: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON document of every request received."""
        return [json.loads(body["messages"][-1]["content"]) for body in self.bodies]

    def next_fault(self) -> Any:
        """Remove and return the fault of the next request; None without one."""
        with self.lock:
            return self.faults.pop(0) if self.faults else None


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    judge_server: JudgeServer

    def do_POST(self) -> None:
        server = self.judge_server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.active += 1
            server.most_at_once = max(server.most_at_once, server.active)
        try:
            self.answer(body)
        finally:
            with server.lock:
                server.active -= 1

    def answer(self, body: dict[str, Any]) -> None:
        server, fault = self.judge_server, self.judge_server.next_fault()
        time.sleep(server.delay)
        if isinstance(fault, int):
            self.send(fault, json.dumps({"error": {"message": f"fault {fault}"}}), server.headers)
        elif fault == "cut":
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault == "slow":
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "html":
            self.send(200, "<html>a proxy</html>", {"Content-Type": "text/html"})
        elif fault == "no choices":
            self.send(200, json.dumps({"object": "list", "data": []}))
        else:
            text = None if fault == "null" else server.judge(json.loads(body["messages"][-1]["content"]))
            choice = text if isinstance(text, dict) else {"message": {"role": "assistant", "content": text}}
            reply: dict[str, Any] = {"choices": [{"index": 0, **choice}]}
            if server.usage:
                reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            self.send(200, json.dumps(reply))

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def judge_server(judge: Judge, faults: Sequence[Any] = ()) -> Iterator[JudgeServer]:
    """Run a server on a free port of this machine within the context."""
    state = JudgeServer(judge, list(faults))
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"judge_server": state}))
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
