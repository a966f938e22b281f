"""``sft judge`` with a judge that a real OpenAI-compatible server serves: killed in the middle, and continued.

``transformers serve`` ignores ``response_format``, and the model of the quickstart writes no JSON: every reply is
prose, is requested again, and counts as a failure. The replies themselves are compared.
"""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compare.test_compare import write_run, write_suite
from tests.served import copy_quickstart, transformers_serve, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUMBER, CONCURRENCY, AFTER = 20, 2, 9
COMPLETED = re.compile(r'"POST /v1/chat/completions HTTP/1.1" 200')


@pytest.fixture
def server(tmp_path):
    """Serve the model of the quickstart; yield the address of the API, the model, and the server's log."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    model = copy_quickstart(tmp_path / "judge")
    with transformers_serve(tmp_path) as (url, log):
        yield url, str(model), log


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
