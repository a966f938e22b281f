"""``sft synth`` on a server with faults: no row is lost, no reply is paid twice, however often it is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sft_cli.endpoint.client import EndpointClient
from sft_cli.endpoint.settings import EndpointSettings, SettingNames
from sft_cli.eval.engine.served import EndpointModel, served_answers
from sft_cli.synth.requests import Drawing, TeacherRequest
from sft_cli.synth.session import Teacher, TeacherSession
from tests.scoring.judge_server import judge_server

pytest.importorskip("openai")
CONCURRENCY = 4
NAMES = SettingNames("teacher", "a teacher", "url", "model", "timeout", "concurrency", "rate", "other settings")


def write_prompts(folder: Path, number: int) -> Path:
    file = folder / "prompts.jsonl"
    rows = [json.dumps({"id": str(one), "q": json.dumps({"number": one})}) for one in range(number)]
    file.write_text("\n".join(rows) + "\n")
    return file


def words(url: str, prompts: Path) -> list[str]:
    endpoint = "synth.teacher.endpoint"
    return [
        "synth",
        f"synth.prompts.path={prompts}",
        "synth.prompts.prompt={{ q }}",
        "synth.prompts.id={{ id }}",
        "synth.teacher.engine=openai",
        f"{endpoint}.url={url}",
        f"{endpoint}.model=stub",
        f"{endpoint}.concurrency={CONCURRENCY}",
        f"{endpoint}.price_input=1",
        f"{endpoint}.price_output=2",
    ]


def journal_lines(folder: Path) -> list[str]:
    file = folder / "out/journal.jsonl"
    return file.read_text().splitlines() if file.is_file() else []


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out/rows.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_again_and_again_it_pays_each_reply_once_and_makes_every_row(tmp_path):
    number, kills = 240, [5, 60, 120, 180, 235]
    faults = [None, 429, "html", None, 500, "cut", None, "no choices", None, 503]
    answered = []

    def judge(document):
        answered.append(document["number"])
        return f"answer {document['number']}"

    prompts = write_prompts(tmp_path, number)
    with judge_server(judge, faults * 12) as server:
        server.headers, server.delay = {"Retry-After": "0"}, 0.02
        command = [sys.executable, "-m", "sft_cli", *words(server.url, prompts), "--out", str(tmp_path / "out")]
        for kill in [*kills, None]:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while kill is not None and process.poll() is None and len(journal_lines(tmp_path)) < kill:
                time.sleep(0.01)
            if kill is not None:
                os.kill(process.pid, signal.SIGKILL)
            _, errors = process.communicate()
            assert process.returncode == (0 if kill is None else -signal.SIGKILL), errors
            assert (tmp_path / "out/rows.jsonl").is_file() is (kill is None)
    assert [row["messages"][-1]["content"] for row in rows_of(tmp_path)] == [f"answer {one}" for one in range(number)]
    keys = [json.loads(line)["key"] for line in journal_lines(tmp_path)]
    assert len(set(keys)) == len(keys) == number
    assert set(answered) == set(range(number))
    # Only requests that were on their way when it was killed are sent again.
    assert len(answered) <= number + len(kills) * CONCURRENCY
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["counts"] == {"kept": number}
    assert manifest["cost"] == pytest.approx(number * (100 * 1 + 10 * 2) / 1e6)


def session(url: str, folder: Path) -> TeacherSession:
    from sft_cli.config.schema.synth import SynthConfig

    client = EndpointClient(EndpointSettings("stub", url, timeout=2.0, retries=5), NAMES)
    teacher = Teacher("stub", {"served": "stub"}, served_answers(EndpointModel(client, 16, CONCURRENCY)))
    return TeacherSession(teacher, SynthConfig(), folder / "journal.jsonl")


def requests(number: int) -> list[TeacherRequest]:
    return [TeacherRequest(str(one), ({"role": "user", "content": json.dumps({"n": one})},)) for one in range(number)]


DRAWING = Drawing(0.7, 1.0, 0, 16)


def test_faults_lose_no_request(tmp_path):
    with judge_server(lambda document: str(document["n"]), [429, "cut", "html", None, 500, "no choices"] * 2) as server:
        server.headers = {"Retry-After": "0"}
        with session(server.url, tmp_path) as asking:
            replies = asking.ask(requests(20), DRAWING, "answers")
    assert [reply.text for reply in replies if reply is not None] == [str(one) for one in range(20)]


def test_the_first_interrupt_waits_for_requests_on_their_way(tmp_path):
    """They are paid, so their replies must be in the journal."""
    main = threading.main_thread().ident
    assert main is not None

    def judge(document):
        if document["n"] == 2:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        return "reply"

    with judge_server(judge) as server, session(server.url, tmp_path) as asking:
        with pytest.raises(KeyboardInterrupt):
            asking.ask(requests(40), DRAWING, "answers")
        answered = len(server.bodies)
    assert 3 <= answered < 40
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == answered
