"""The addresses of the board: answers, escaped texts, host names, tokens, errors."""

import pytest
from starlette.testclient import TestClient

from sft_cli.board import run_index, server
from sft_cli.board.app import create_app
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import Access
from sft_cli.errors import SftError
from tests.board.run_dirs import HOSTILE, write_run

TOKEN = "a-token-of-24-characters"


def client(directory, access: Access | None = None) -> TestClient:
    app = create_app(RunIndex(directory), access or Access(TOKEN, False))
    return TestClient(app, base_url="http://127.0.0.1:8377", follow_redirects=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_index, "REFRESH_SECONDS", 0.0)


@pytest.fixture
def board(tmp_path):
    write_run(tmp_path / "one", steps=120)
    write_run(tmp_path / "two <b>&'\"", steps=20, lr="0.001", recipe=HOSTILE.replace("\x1b", "").replace(" ", ""))
    return client(tmp_path)


def test_the_list_is_a_page_and_json(board):
    page = board.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<b>&" not in page.text
    assert "two &lt;b&gt;" in page.text
    rows = {row["name"]: row for row in board.get("/api/runs").json()["runs"]}
    assert rows["one"]["step"] == 120
    assert board.get("/api/runs/one").json() == rows["one"]


@pytest.mark.parametrize(
    "address", ["/api/runs/absent", "/api/runs/..%2fone", "/api/runs/%2e%2e/one", "/assets/app.py"]
)
def test_unknown_names_are_not_found(board, address):
    answer = board.get(address)
    assert answer.status_code == 404
    if address.startswith("/api"):
        assert answer.json()["error"]["problem"] == "there is no such run"


def test_requests_to_other_host_names_are_refused(board):
    assert board.get("/api/runs", headers={"host": "evil.example:8377"}).status_code == 400
    assert board.get("/api/runs", headers={"host": "localhost:8377"}).status_code == 200


def test_a_token_is_needed_where_other_machines_reach_the_board(tmp_path):
    write_run(tmp_path / "one")
    board = client(tmp_path, Access(TOKEN, True, ()))
    assert board.get("/").status_code == 403
    assert board.get("/?token=wrong").status_code == 403
    assert board.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    opened = board.get(f"/?token={TOKEN}&x=1")
    assert (opened.status_code, opened.headers["location"]) == (303, "/?x=1")
    assert "HttpOnly; Path=/; SameSite=strict" in opened.headers["set-cookie"]
    assert board.get("/").status_code == 200
    assert board.get(f"http://127.0.0.1:8377//evil.example/?token={TOKEN}").headers["location"] == "/evil.example/"


def test_choices_that_open_runs_to_others_are_refused():
    with pytest.raises(SftError, match="without a token"):
        server.choose_access("0.0.0.0", None)
    with pytest.raises(SftError, match="5 characters, 16 are needed"):
        server.choose_access("127.0.0.1", "short")
    assert server.choose_access("::1", None).read_needs_token is False
    assert server.choose_access("127.0.0.1", TOKEN).read_needs_token is True
    assert server.choose_access("node7", TOKEN).hosts[-1] == "node7"


def test_a_busy_port_a_missing_directory_and_one_without_runs_are_one_sentence(tmp_path):
    with server.listen("127.0.0.1", 0) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(SftError, match=rf"port {port} is taken .*\n.*sft board --port 0"):
            server.listen("127.0.0.1", port)
    with pytest.raises(SftError, match="cannot listen there"):
        server.listen("192.0.2.7", 0)
    with pytest.raises(SftError, match="no such directory"):
        server.open_index(tmp_path / "absent")
    with pytest.raises(SftError, match="no runs in this directory"):
        server.open_index(tmp_path)
