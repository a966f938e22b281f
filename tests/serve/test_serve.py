"""``sft serve``: servers start, are recorded, fail with their last lines, and leave nothing running."""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.serve import engine as engines
from sft_cli.serve.proxy import recording
from sft_cli.serve.recorder import Recorder
from sft_cli.utils.ports import free_port
from tests.export.saved import save_run

DYING = "import sys; print('loading'); sys.exit('no such weights: model.safetensors')"
WAITING = "import time; print('still loading', flush=True); time.sleep(600)"
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Lima"}, "finish_reason": "stop"}]}
QUESTION = {"model": "run", "messages": [{"role": "user", "content": "Capital of Peru?"}]}


@pytest.fixture
def model(tmp_path) -> Path:
    """Return a directory that looks like a model to ``sft serve``."""
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model/config.json").write_text("{}")
    return tmp_path / "my model"


def is_running(number: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def error_of(*words) -> str:
    with pytest.raises(SftError) as error:
        execute(["serve", *map(str, words)])
    return str(error.value)


def test_a_busy_port_is_refused_with_a_free_one(model):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = error_of(model, "--port", port)
    assert f"port {port} is in use by another program" in message
    fix = int(re.findall(r"fix: --port (\d+)", message)[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", fix))


def test_what_is_no_model_and_what_has_no_result_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "not a run directory" in error_of(tmp_path / "empty")
    monkeypatch.setitem(engines.MODULES, "vllm", ("vllm_is_absent",))
    with pytest.raises(SftError, match="vllm_is_absent, which is not installed"):
        engines.choose_engine("vllm")


def test_a_server_that_dies_while_it_loads_gives_its_last_lines(model, monkeypatch, tmp_path):
    monkeypatch.setitem(engines.PROGRAMS, "transformers", DYING)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    message = error_of(model, "--port", free_port(), "--engine", "transformers")
    assert "the server ended while it loaded the model, with exit code 1; its last lines:" in message
    assert "    loading\n    no such weights: model.safetensors" in message
    assert list(tmp_path.glob("sft-serve-*")) == []


def test_a_server_that_is_not_ready_in_time_is_stopped(model, monkeypatch):
    monkeypatch.setitem(engines.PROGRAMS, "transformers", f"import os; print(os.getpid(), flush=True); {WAITING}")
    message = error_of(model, "--port", free_port(), "--engine", "transformers", "--timeout", "1.5")
    assert "the server was not ready after 1.5 seconds" in message
    number = int(re.findall(r"\n    (\d+)\n", message)[0])
    assert not is_running(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_remains_when_the_command_is_killed(model, tmp_path, number):
    program = f"""
import sys, os
from sft_cli.serve import engine
engine.PROGRAMS["transformers"] = {f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {WAITING}"!r}
from sft_cli.cli import execute
execute(["serve", {str(model)!r}, "--engine", "transformers", "--port", "{free_port()}"])
"""  # noqa: E501
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    assert is_running(child)
    process.send_signal(number)
    assert process.wait(30) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: not is_running(child))
    if number == signal.SIGTERM:
        assert list(tmp_path.glob("sft-serve-*")) == []


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def server_of(replies):
    """Run a server whose reply to each request is the next of (content type, parts); yield its address.

    A part is sent once the event with its number is set, so that a client can show that it has the earlier ones.
    """
    events = [threading.Event() for _ in range(8)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            kind, parts = replies.pop(0)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, part in enumerate(parts):
                assert number == 0 or events[number].wait(30)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", events
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def post(url: str, body: dict):
    """Yield the reply to a chat request."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    try:
        yield reply
    finally:
        reply.close()
        connection.close()


def answer_to(url: str, body: dict) -> tuple[int, bytes]:
    with post(url, body) as reply:
        return reply.status, reply.read()


def rows_of(file: Path, number: int) -> list[dict]:
    wait_for(lambda: len(file.read_text().splitlines()) >= number)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_whole_answers_are_recorded_and_cut_ones_are_counted(tmp_path):
    cut = json.loads(json.dumps(ANSWER).replace("stop", "length"))
    replies = [("application/json", [json.dumps(reply).encode()]) for reply in (cut, ANSWER, {"odd": 1})]
    recorder = Recorder(tmp_path / "rows.jsonl")
    with server_of(replies) as (server, _), recording(free_port(), server, recorder) as url:
        assert [json.loads(answer_to(url, QUESTION)[1]) for _ in range(3)] == [cut, ANSWER, {"odd": 1}]
        wait_for(lambda: recorder.rows + recorder.skipped == 3)
    assert rows_of(recorder.file, 1) == [
        {"messages": [*QUESTION["messages"], {"role": "assistant", "content": "Lima"}]}
    ]
    assert (recorder.rows, recorder.skipped) == (1, 2)


def event(**choice) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


def test_streams_arrive_while_they_are_made_and_are_recorded_whole(tmp_path):
    call = {"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x"'}}
    parts = [
        event(delta={"role": "assistant", "content": "Li"}),
        event(delta={"content": "ma é"})[:-4],  # a part may end anywhere
        event(delta={"content": "ma é"})[-4:] + event(delta={"tool_calls": [call]}),
        event(delta={"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]})
        + event(delta={}, finish_reason="tool_calls")
        + b"data: [DONE]\n\n",
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    recorder = Recorder(tmp_path / "rows.jsonl")
    with (
        server_of([("text/event-stream", parts)]) as (server, events),
        recording(free_port(), server, recorder) as url,
        ExitStack() as stack,
    ):
        reply = stack.enter_context(post(url, {**QUESTION, "stream": True, "tools": tools}))
        received = b""
        for number, part in enumerate(parts):
            received += reply.read(len(part))  # returns before the server may send the next part
            assert received == b"".join(parts[: number + 1])
            events[number + 1].set()
        assert reply.read() == b""
        row = rows_of(recorder.file, 1)[0]
    function = {"name": "add", "arguments": '{"x": 1}'}
    answer = {"role": "assistant", "content": "Lima é", "tool_calls": [{"id": "a", "type": "function"}]}
    answer["tool_calls"][0]["function"] = function
    assert row == {"messages": [*QUESTION["messages"], answer], "tools": tools}


def test_a_server_that_is_gone_gives_502(tmp_path):
    recorder = Recorder(tmp_path / "rows.jsonl")
    with recording(free_port(), f"http://127.0.0.1:{free_port()}", recorder) as url:
        assert answer_to(url, QUESTION)[0] == 502
    assert recorder.rows == 0
    with pytest.raises(SftError, match="the file cannot be written: No such file"):
        Recorder(tmp_path / "no/rows.jsonl")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_served_and_its_traffic_can_be_prepared(tmp_path):
    pytest.importorskip("fastapi")
    run = save_run(tmp_path)
    port, rows = free_port(), tmp_path / "rows.jsonl"
    words = ["serve", str(run.path), "--port", str(port), "--record", str(rows), "--engine", "transformers"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HF_HOME": str(tmp_path / "none")}
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_cli", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("try"):
            break
    assert any(line.startswith("record    every complete chat answer is appended to") for line in lines)
    curl = shlex.split(lines[-1].removeprefix("try"))
    done = subprocess.run([*curl, "-s"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["usage"]["prompt_tokens"] > 0
    for content in ("one two three", "the capital of France"):
        body = {"model": "run", "messages": [{"role": "user", "content": content}], "temperature": 0}
        assert answer_to(f"http://127.0.0.1:{port}", body)[0] == 200
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    recorded = [json.loads(line) for line in rows.read_text().splitlines()]
    assert recorded[0]["messages"][0] == {"role": "user", "content": "Hello"}
    assert f"recorded  {len(recorded)} row" in output
    assert list(tmp_path.glob("sft-serve-*")) == []
    execute(["prepare", f"data={rows}", "recipe=quickstart", f"prepared_dir={tmp_path}/prepared"])
    manifest = json.loads((tmp_path / "prepared/manifest.json").read_text())
    assert sum(split["examples"] for split in manifest["splits"].values()) == len(recorded) > 0
