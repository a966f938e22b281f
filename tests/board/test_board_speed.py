"""The list of 200 runs of 10,000 steps: the first page within a second of a new board, and small updates."""

import json
import shutil
import time

import pytest
from starlette.testclient import TestClient

from sft_cli.board import run_index
from sft_cli.board.app import create_app
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import Access
from tests.board.run_dirs import step_line, write_run

pytestmark = [pytest.mark.slow]
RUNS, STEPS = 200, 10_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return a directory of many long runs, removed afterwards: it has 700 MB."""
    directory = tmp_path_factory.mktemp("many")
    write_run(directory / "run-000", steps=STEPS, per_epoch=STEPS // 2)
    for number in range(1, RUNS):
        shutil.copytree(directory / "run-000", directory / f"run-{number:03}")
    yield directory
    shutil.rmtree(directory)


def test_the_first_page_and_an_update_are_fast(many, monkeypatch, capsys):
    monkeypatch.setattr(run_index, "REFRESH_SECONDS", 0.0)
    began = time.process_time()
    board = TestClient(
        create_app(RunIndex(many), Access("a-token-of-24-characters", False)), base_url="http://localhost"
    )
    page = board.get("/")
    first = time.process_time() - began
    revision = board.get("/api/runs").json()["revision"]
    with (many / "run-007" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(step_line(STEPS + 1, STEPS // 2)) + "\n")
    began = time.process_time()
    answer = board.get(f"/api/runs?since={revision}")
    update = time.process_time() - began
    with capsys.disabled():
        print(f"\nfirst page {first:.2f} CPU s, update {update:.3f} CPU s, {len(answer.content)} bytes")
    assert page.text.count("<tr data-name") == RUNS
    assert [row["name"] for row in answer.json()["runs"]] == ["run-007"]
    assert len(answer.content) < 600
    assert first < 1
    assert update < 0.3
