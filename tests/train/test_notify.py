"""Messages to a webhook, received by a real server on this machine."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sft_cli.config.rules.tracking import check_tracking_keys
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import NotifyEvent
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.notify import Notifier


@contextmanager
def server(status=200):
    """Yield the address of a server and the messages that it gets."""
    messages = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            messages.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/hook", messages
    listening.shutdown()
    thread.join()
    listening.server_close()


def notifier(tmp_path, url, **keys):
    config = Config()
    config.notify.url = url
    for name, value in keys.items():
        setattr(config.notify, name, value)
    return Notifier(config, RunDir(tmp_path / "mine"))


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("SFT_NOTIFY_URL", raising=False)


def test_messages_arrive_with_their_values(tmp_path):
    with server() as (url, messages):
        sender = notifier(tmp_path, url)
        sender.send(NotifyEvent.finished, "finished 3 steps", {"step": 3})
        sender.wait()
    [(path, kind, message)] = messages
    assert (path, kind, message.pop("at") > 0) == ("/hook", "application/json", True)
    assert message == {"event": "finished", "run": "mine", "text": "mine: finished 3 steps", "step": 3}


def test_a_failure_is_sent_and_raised(tmp_path):
    with server() as (url, messages):
        with pytest.raises(ValueError, match="no rows"), notifier(tmp_path, url).report_failure():
            raise ValueError("no rows\ndetails")
        with pytest.raises(SystemExit), notifier(tmp_path, url).report_failure():
            raise SystemExit(130)
    assert [(message["event"], message["text"]) for _, _, message in messages] == [("failed", "mine: no rows")]


def test_only_the_chosen_events_are_sent_and_the_variable_is_read(tmp_path, monkeypatch):
    with server() as (url, messages):
        monkeypatch.setenv("SFT_NOTIFY_URL", url)
        sender = notifier(tmp_path, None, events=[NotifyEvent.spike])
        sender.send(NotifyEvent.finished, "finished")
        sender.send(NotifyEvent.spike, "loss 9")
        sender.wait()
    assert [message["event"] for _, _, message in messages] == ["spike"]


def test_an_address_that_refuses_is_reported_once_and_stops_nothing(tmp_path, capsys):
    with server(status=500) as (url, messages):
        sender = notifier(tmp_path, url)
        for _ in range(2):
            sender.send(NotifyEvent.spike, "loss 9")
            sender.wait()
    assert len(messages) == 2
    assert capsys.readouterr().out.count("warning: the address of SFT_NOTIFY_URL or notify.url") == 1
    sender = notifier(tmp_path, url)  # nothing listens there any more
    sender.send(NotifyEvent.finished, "finished")
    sender.wait()
    assert "does not take messages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x", "must begin with http:// or https://"),
        ("host", "must begin with http:// or https://"),
        ("https://hooks.example.com/services/T0/B0/abcdefghijklmnopqrstuvwx", "looks like a secret"),
        ("https://example.com/hook?token=abc", "looks like a secret"),
        ("https://me:secret@example.com/hook", "looks like a secret"),
    ],
)
def test_addresses_that_are_refused(url, problem):
    config = Config()
    config.notify.url = url
    [error] = check_tracking_keys(config)
    assert problem in str(error)
    assert "secret@" not in str(error)
    assert "abcdefghij" not in str(error)


def test_a_plain_address_is_accepted():
    config = Config()
    config.notify.url = "https://ntfy.example.com/my-runs"
    assert list(check_tracking_keys(config)) == []
