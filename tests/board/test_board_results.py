"""Evaluations, rows of the data and new runs on the board."""

import json
import shutil

import pytest
from starlette.testclient import TestClient

from sft_cli.board import data_rows, run_index
from sft_cli.board.app import create_app
from sft_cli.board.data_rows import ledger_page
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import Access
from tests.board.run_dirs import write_run
from tests.eval_report.evaluated import evaluated_run
from tests.report.helpers import make

TOKEN = "a-token-of-24-characters"
OWN = {"origin": "http://127.0.0.1:8377", "authorization": f"Bearer {TOKEN}"}


def client(directory) -> TestClient:
    app = create_app(RunIndex(directory), Access(TOKEN, False))
    return TestClient(app, base_url="http://127.0.0.1:8377", follow_redirects=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_index, "REFRESH_SECONDS", 0.0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a prepared directory with hostile, dropped and truncated rows."""
    return make(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def with_data(prepared, tmp_path) -> TestClient:
    """Return the board of a run on the prepared data."""
    run = write_run(tmp_path / "one", steps=20)
    fingerprint = json.loads((prepared / "manifest.json").read_text())["fingerprint"]
    run.data.write_text(json.dumps({"prepared_dir": str(prepared), "fingerprint": fingerprint}))
    return client(tmp_path)


def test_evaluations_have_intervals_and_are_compared(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    run = evaluated_run(tmp_path)
    shutil.copytree(run.path, tmp_path / "second")
    board = client(tmp_path)
    suites = {suite["name"]: suite for suite in board.get("/api/evaluations/run").json()["suites"]}
    exact = next(one for one in suites["capitals"]["metrics"] if one["name"] == "exact_match")
    assert exact["models"]["tuned"] == {"value": 0.5, "low": 0.15, "high": 0.85, "n": 4, "clusters": 4}
    page = board.get("/evaluations/run").text
    assert "0.15 to 0.85" in page
    assert "<script>document" not in page
    page = board.get("/evaluations/run?with=second").text
    assert "cannot tell" in page
    compared = board.get("/api/compare?first=run&second=second").json()
    assert compared["reference"] == str(tmp_path / "run")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("seed: 0\n")
    bare = client(tmp_path)
    assert "Nothing is evaluated yet" in bare.get("/evaluations/bare").text
    assert bare.get("/evaluations/run?with=bare").status_code == 200


def test_pages_of_the_ledger_hold_every_row_once(tmp_path, monkeypatch):
    ledger = tmp_path / "ledger.jsonl"
    lines = [{"where": f"rows.jsonl:{n}", "source": "mine", "fate": "used", "pad": "é" * n} for n in range(1, 61)]
    ledger.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    places = [json.loads(line)["where"] for line in ledger.read_text().splitlines()]
    monkeypatch.setattr(data_rows, "PAGE", 7)
    monkeypatch.setattr(data_rows, "SCANNED_BYTES", 3000)
    found, start, pages = [], 0, 0
    while start is not None:
        answer = ledger_page(ledger, {}, start)
        found += [row["where"] for row in answer["rows"]]
        start, pages = answer["next"], pages + 1
    assert found == places
    assert pages > len(places) / 7
    middle = ledger_page(ledger, {}, 5)["rows"]
    assert middle[0]["where"] == places[1]


@pytest.mark.slow
def test_rows_are_found_by_fate_source_and_text(with_data):
    rows = with_data.get("/api/ledger/one?fate=dropped").json()["rows"]
    assert {row["fate"] for row in rows} == {"dropped"}
    assert len(rows) >= 1
    truncated = with_data.get("/api/ledger/one?fate=truncated").json()["rows"]
    assert [row["source"] for row in truncated] == ["talk"]
    found = with_data.get("/api/ledger/one?source=plain&text=PLAIN.jsonl:17").json()["rows"]
    assert [row["where"].rpartition("/")[2] for row in found] == ["plain.jsonl:17"]
    assert with_data.get("/api/ledger/one?fate=lost").status_code == 404
    page = with_data.get("/data/one?text=zzz&fate=used").text
    assert "no row matches" in page


@pytest.mark.slow
def test_a_row_is_shown_token_by_token(with_data):
    line = with_data.get("/api/ledger/one?source=mine&text=mine.jsonl:1").json()["rows"][0]
    row = with_data.get(f"/api/row/one?at={line['at']}").json()
    (example,) = row["examples"]
    pieces = [piece for part in example["excerpt"] for piece in part["pieces"]]
    assert sum(piece["num_ids"] for piece in pieces) == example["tokens"] == line["tokens"]
    trained = "".join(piece["text"] for piece in pieces if piece["num_trained"])
    assert trained.startswith("script: <script>document.title")
    page = with_data.get(f"/row/one?at={line['at']}").text
    assert '<i class="special stop">&lt;|im_end|&gt;</i>' in page
    assert "<script>document" not in page
    dropped = with_data.get("/api/ledger/one?fate=dropped").json()["rows"][0]
    assert "no question" in with_data.get(f"/row/one?at={dropped['at']}").text
    assert with_data.get(f"/api/row/one?at={line['at'] + 1}").status_code == 404
    assert with_data.get("/api/row/one?at=99999999").status_code == 404


def test_data_that_are_gone_are_one_sentence(tmp_path):
    write_run(tmp_path / "one", steps=20)
    answer = client(tmp_path).get("/api/ledger/one")
    assert answer.status_code == 404
    assert answer.json()["error"]["problem"].startswith("the prepared data of the run is gone")


def test_a_new_run_is_composed_with_the_token_only(tmp_path):
    write_run(tmp_path / "one", steps=20)
    board = client(tmp_path)
    assert "quickstart" in [one["name"] for one in board.get("/api/recipes").json()["recipes"]]
    assert "Choose a recipe" in board.get("/new").text
    sent = {"recipe": "quickstart", "settings": "trainer.lr=1e-3"}
    assert board.post("/api/compose", data=sent).status_code == 403
    found = board.post("/api/compose", data=sent, headers=OWN).json()
    assert found["command"] == "sft train recipe=quickstart trainer.lr=1e-3"
    assert "lr: 0.001" in found["yaml"]
    page = board.post("/new", data={**sent, "settings": "trainer.lrr=1"}, headers=OWN).text
    assert "trainer.lr" in page
    assert "Command</h2>" not in page
    for settings in ("--config-dir=/etc", "recipe=/etc/passwd", "lr", "a='b"):
        assert board.post("/api/compose", data={**sent, "settings": settings}, headers=OWN).status_code == 404
    assert board.post("/api/compose", data={"recipe": "../../etc/passwd"}, headers=OWN).status_code == 404
    assert board.post("/api/compose", content=b"x" * 70_000, headers=OWN).status_code == 413
