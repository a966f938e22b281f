"""A run on the board: curves, settings with origins, samples, reports, the request to stop."""

import json
import os

import numpy as np
import pytest
from starlette.testclient import TestClient

from sft_cli.board import run_index
from sft_cli.board.app import create_app
from sft_cli.board.curves import RunCurves, downsample
from sft_cli.board.details import config_difference, settings
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import Access
from sft_cli.run_dir import RunDir
from sft_cli.train.run_end import StopRequest, requested_stop
from sft_cli.train.setup import run_lock
from tests.board.run_dirs import HOSTILE, metrics_text, step_line, write_run

TOKEN = "a-token-of-24-characters"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_index, "REFRESH_SECONDS", 0.0)


@pytest.fixture
def run(tmp_path) -> RunDir:
    write_run(tmp_path / "other", steps=20, lr="0.001")
    return write_run(tmp_path / "one", steps=120)


@pytest.fixture
def board(run) -> TestClient:
    app = create_app(RunIndex(run.path.parent), Access(TOKEN, False))
    return TestClient(app, base_url="http://127.0.0.1:8377", follow_redirects=False)


def test_downsampled_curves_keep_ends_and_spikes():
    steps = np.arange(1, 100_001)
    values = np.sin(steps / 5000)
    values[54_321] = 40.0
    points = downsample(steps, values, None, None, 400)
    assert len(points) <= 802
    assert points[0][0] == 1
    assert points[-1][0] == 100_000
    assert (54_322, 40.0) in points
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert downsample(steps, values, 10, 12, 400) == [(n, values[n - 1]) for n in (10, 11, 12)]


def test_curves_hold_every_value_and_follow_the_file(run):
    curves = RunCurves(run)
    first = curves.read(None, None)
    assert list(first["curves"])[:3] == ["train/loss", "eval/loss", "train/lr"]
    assert "train/nll" not in first["curves"]  # the only term is the loss
    assert first["curves"]["train/loss"] == [(n, step_line(n, 100)["loss"]) for n in range(1, 121)]
    assert first["curves"]["eval/suites/capitals/exact_match"] == [(50, 0.125), (100, 0.25)]
    assert curves.read(None, None)["version"] == first["version"]
    with run.metrics.open("a") as stream:
        stream.write(json.dumps(step_line(121, 100)) + "\n")
    assert curves.read(None, None)["last_step"] == 121
    fresh = run.metrics.with_suffix(".new")
    fresh.write_text(metrics_text(60, 100))
    os.replace(fresh, run.metrics)
    assert curves.read(None, None)["last_step"] == 60


def test_curves_are_sent_again_only_if_they_changed(board, run):
    answer = board.get("/api/curves/one?first=10&last=20")
    assert [step for step, _ in answer.json()["curves"]["train/loss"]] == list(range(10, 21))
    again = board.get("/api/curves/one?first=10&last=20", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    with run.metrics.open("a") as stream:
        stream.write(json.dumps(step_line(121, 100)) + "\n")
    again = board.get("/api/curves/one?first=10&last=20", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 200
    assert board.get("/api/curves/one?first=x").json()["error"]["where"] == "first=x"


def test_settings_have_origins_and_differences(run):
    origins = {line["key"]: line["origin"] for line in settings(run)}
    assert origins["trainer.lr"] == "command line"
    assert origins["trainer.epochs"] == "recipe"
    assert origins["prepared_dir"] == "default"
    other = RunDir(run.path.parent / "other")
    changed = {line["key"]: (line["first"], line["second"]) for line in config_difference(run, other)}
    assert changed == {"run_name": ("one", "other"), "trainer.lr": (0.002, 0.001)}


def test_the_page_shows_what_json_holds_and_escapes_it(board):
    details = board.get("/api/details/one").json()
    assert [answer["step"] for answer in details["samples"][0]["answers"]] == [50, 100]
    assert [line["step"] for line in details["checkpoints"]] == [120]
    assert details["spikes"][0]["rows"][0]["where"].startswith("rows.jsonl:7")
    assert details["console"]["lines"][-1] == HOSTILE
    page = board.get("/run/one?with=other").text
    for text in ("heldout.jsonl:2", "did not stop", "rows.jsonl:7", "Settings that differ from other", "2.13.0"):
        assert text in page
    assert "<script>document" not in page
    assert "\x1b" not in page
    assert "49" not in page.partition("{{ 7 * 7 }}")[0][-20:]
    assert board.get("/run/one?with=absent").status_code == 404
    pairs = board.get("/api/difference?first=one&second=other").json()["settings"]
    assert [pair["key"] for pair in pairs] == ["run_name", "trainer.lr"]


def test_a_run_without_any_file_but_its_config_has_a_page(board, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("not: [closed")
    app = create_app(RunIndex(tmp_path), Access(TOKEN, False))
    answer = TestClient(app, base_url="http://localhost").get("/run/bare")
    assert answer.status_code == 200
    assert "(nothing is recorded)" in answer.text


def test_reports_are_shown_without_access_to_the_board(board, run, tmp_path):
    assert "there is no such report" in board.get("/report/evaluation/one").text
    run.eval.mkdir()
    (run.eval / "report.html").write_text("<h1>Evaluation</h1>")
    answer = board.get("/report/evaluation/one")
    assert answer.text == "<h1>Evaluation</h1>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "report.html").write_text("<h1>Data</h1>")
    (prepared / "manifest.json").write_text(json.dumps({"fingerprint": "f", "content": "c", "inputs": {}}))
    run.data.write_text(json.dumps({"prepared_dir": str(prepared), "fingerprint": "f"}))
    assert board.get("/report/data/one").text == "<h1>Data</h1>"
    run.data.write_text(json.dumps({"prepared_dir": str(prepared), "fingerprint": "other"}))
    assert board.get("/report/data/one").status_code == 404


def test_a_report_that_is_a_link_to_elsewhere_is_not_shown(board, run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    run.eval.mkdir()
    (run.eval / "report.html").symlink_to(secret)
    assert board.get("/report/evaluation/one").status_code == 404


def test_stopping_needs_the_token_and_the_own_origin(board, run):
    own = {"origin": "http://127.0.0.1:8377", "authorization": f"Bearer {TOKEN}"}
    assert board.post("/stop/one", headers={"origin": own["origin"]}).status_code == 403
    assert board.post("/stop/one", headers={**own, "origin": "http://evil.example"}).status_code == 403
    assert board.post("/stop/one", headers={**own, "origin": "null"}).status_code == 403
    assert "the run is not running" in board.post("/stop/one", headers=own).text
    assert requested_stop(run) is StopRequest.none
    with run_lock.hold_run_lock(run.lock):
        assert "Stop after this step" in board.get("/run/one").text
        answer = board.post("/stop/one", headers=own)
        assert (answer.status_code, answer.headers["location"]) == (303, "/run/one")
        assert requested_stop(run) is StopRequest.save
        board.post("/stop/one?finish=1", headers=own)
        assert requested_stop(run) is StopRequest.finish
