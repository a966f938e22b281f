"""Messages about a run to a webhook."""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import NotifyEvent
from sft_cli.console import say
from sft_cli.run_dir import RunDir

VARIABLE = "SFT_NOTIFY_URL"
"""Environment variable of the address, which may hold a secret."""
TIMEOUT = 10.0
"""Seconds that a message may take."""


class Notifier:
    """Sends messages about a run from a thread, so that no step waits for a network.

    Each is a JSON object with ``event``, ``run`` (name of the run directory), ``text``, ``at`` (seconds since 1970) and
    the values of the event. ``text`` is what chat services show. A message that fails is reported once.
    """

    def __init__(self, config: Config, directory: RunDir, *, active: bool = True) -> None:
        """Initialize the notifier; one that is not active sends nothing."""
        url = os.environ.get(VARIABLE) or config.notify.url
        self._url, self._events = url if active else None, frozenset(config.notify.events)
        self._run, self._threads, self._failed = directory.path.resolve().name, list[threading.Thread](), False

    def send(self, event: NotifyEvent, text: str, values: Mapping[str, Any] | None = None) -> None:
        """Send a message without waiting for the answer."""
        if self._url is None or event not in self._events:
            return
        message = {"event": event.value, "run": self._run, "text": f"{self._run}: {text}", "at": time.time()}
        body = json.dumps({**message, **(values or {})}).encode()
        thread = threading.Thread(target=self._post, args=(self._url, body), daemon=True, name="sft-notify")
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Wait until all messages are sent, at most ``TIMEOUT`` each."""
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._threads.clear()

    @contextmanager
    def report_failure(self) -> Iterator[None]:
        """Send ``failed`` if the block raises an error, and wait for all messages at its end."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines()
            self.send(NotifyEvent.failed, lines[0] if lines else type(error).__name__)
            raise
        finally:
            self.wait()

    def _post(self, url: str, body: bytes) -> None:
        request = Request(url, body, {"Content-Type": "application/json", "User-Agent": "sft-cli"})
        try:
            with urlopen(request, timeout=TIMEOUT):
                pass
        except (URLError, OSError, ValueError) as error:
            if not self._failed:
                self._failed = True
                reason = getattr(error, "reason", None) or getattr(error, "code", None) or type(error).__name__
                say(f"warning: the address of {VARIABLE} or notify.url does not take messages: {reason}")
