"""``sft judge`` with a judge that a real OpenAI-compatible server serves: killed in the middle, and continued.

``transformers serve`` ignores ``response_format``, and the model of the quickstart writes no JSON: every reply is
prose, is requested again, and counts as a failure. The replies themselves are compared.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import sft_cli
from tests.compare.test_compare import write_run, write_suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUMBER, CONCURRENCY, AFTER = 20, 2, 9
TEMPLATE = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
COMPLETED = re.compile(r'"POST /v1/chat/completions HTTP/1.1" 200')
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def server(tmp_path):
    """Serve the model of the quickstart; yield the address of the API, the model, and the server's log."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    model = tmp_path / "judge"
    shutil.copytree(Path(sft_cli.__file__).parent / "quickstart/model", model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "hub/hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HOME": str(tmp_path / "hub")}
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words], stdout=stream, stderr=stream, env={**os.environ, **offline}
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
        yield f"http://127.0.0.1:{port}/v1", str(model), log
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def wait_for(condition, process) -> None:
    """Wait until a condition holds while a process runs."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


def judge_words(run: Path, url: str, model: str) -> list[str]:
    words = ["judge", str(run), "--suite", "facts", "--model", model, "--url", url]
    return [sys.executable, "-m", "sft_cli", *words, "--concurrency", str(CONCURRENCY), "--response-format", "none"]


def journal_of(run: Path) -> list[dict]:
    """The whole lines of the journal."""
    files = list(run.glob("eval/*/judge-*/replies.jsonl"))
    lines = files[0].read_text().splitlines(keepends=True) if files else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def results_of(run: Path) -> tuple[list[dict], dict]:
    """The verdicts, and the record without its times."""
    folder = next(run.glob("eval/*/judge-*"))
    record = json.loads((folder / "judge.json").read_text())
    for name in ("seconds", "from_journal"):
        record["usage"].pop(name)
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()], record


def test_a_killed_judge_continues_with_a_real_server(tmp_path, server):
    url, model, log = server
    runs = {name: write_run(tmp_path, name) for name in ("whole", "killed")}
    for run in runs.values():
        path = write_suite(run, {"exact": [1] * NUMBER})
        lines = [json.loads(line) | {"answer": f"answer {index}"} for index, line in
                 enumerate((path / "answers.jsonl").read_text().splitlines())]  # fmt: skip
        (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert subprocess.run(judge_words(runs["whole"], url, model), check=False).returncode == 3  # no reply is JSON
    total, paid = len(journal_of(runs["whole"])), len(COMPLETED.findall(log.read_text()))
    assert total == paid > 4 * AFTER

    killed = subprocess.Popen(judge_words(runs["killed"], url, model))
    wait_for(lambda: len(journal_of(runs["killed"])) >= AFTER, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = journal_of(runs["killed"])
    assert AFTER <= len(kept) < total
    time.sleep(1)  # the server ends the requests in flight
    before = len(COMPLETED.findall(log.read_text()))
    assert before - paid <= len(kept) + CONCURRENCY
    assert subprocess.run(judge_words(runs["killed"], url, model), check=False).returncode == 3
    assert len(COMPLETED.findall(log.read_text())) - before == total - len(kept)
    continued = journal_of(runs["killed"])
    assert continued[: len(kept)] == kept
    journals = journal_of(runs["whole"]), continued
    texts = [{line["key"]: line["reply"] for line in journal} for journal in journals]
    assert texts[0] == texts[1]
    assert len(texts[0]) == total
    assert len(set(texts[0].values())) > 3
    assert results_of(runs["killed"]) == results_of(runs["whole"])
