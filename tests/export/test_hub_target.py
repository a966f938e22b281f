"""``sft export --to hub`` lists files and card, and uploads them through the HTTP API, which a stand-in speaks."""

import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from sft_cli.cli import execute
from sft_cli.errors import SftError
from tests.export.saved import save_run

TOKEN = "hf_" + "abcdefgh" * 4


class Hub(BaseHTTPRequestHandler):
    """The calls of create_repo and upload_folder: create, preupload, LFS batch, upload, verify, commit."""

    protocol_version = "HTTP/1.1"
    refuses = False

    def reply(self, data, code=200):
        body = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        hub, body = self.server.state, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub["tokens"].add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        hub["calls"].append(path)
        if hub["refuses"]:
            self.reply({"error": f"no write access for {TOKEN}"}, 403)
        elif path == "/api/repos/create":
            hub["created"] = json.loads(body)
            self.reply({"url": f"{hub['url']}/jane/bot"})
        elif path == "/api/validate-yaml":
            assert json.loads(body)["content"] == "# edited\n"
            self.reply({"errors": [], "warnings": []})
        elif path == "/api/models/jane/bot/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            kinds = {name: "lfs" if name.endswith("safetensors") else "regular" for name in names}
            modes = [{"path": name, "uploadMode": kinds[name], "shouldIgnore": False, "oid": None} for name in names]
            self.reply({"files": modes})
        elif path == "/jane/bot.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{hub['url']}/lfs/{one['oid']}"}}
            self.reply({"objects": objects, "transfer": "basic"})
        elif path == "/api/models/jane/bot/commit/main":
            hub["commit"] = [json.loads(line) for line in body.splitlines()]
            self.reply({"commitUrl": f"{hub['url']}/jane/bot/commit/1", "commitOid": "1", "success": True})
        else:
            self.reply({"error": path}, 404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.state["lfs"][self.path.removeprefix("/lfs/")] = body
        self.reply({})

    def do_GET(self):
        self.server.state["calls"].append(self.path)
        self.reply({"error": "not found"}, 404)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{server.server_port}"
    server.state = {"url": url, "lfs": {}, "calls": [], "tokens": set(), "refuses": False}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server.state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a run whose export to the hub has been written by a dry run."""
    run = save_run(tmp_path_factory.mktemp("saved"))
    execute(["export", str(run.path), "--to", "hub", "--repo", "jane/bot"])
    return run


def words(run, out, *more) -> list[str]:
    return ["export", str(run.path), "--to", "hub", "--repo", "jane/bot", "--out", str(out), *more]


def copy_of(run, folder):
    return shutil.copytree(run.path / "export/hub", folder / "hub")


def error_of(*line) -> str:
    with pytest.raises(SftError) as error:
        execute([*map(str, line)])
    return str(error.value)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own call
def test_a_dry_run_lists_and_a_push_uploads_every_file_with_the_edited_card(written, tmp_path, hub, capsys):
    out = copy_of(written, tmp_path)
    execute(words(written, out))
    shown = capsys.readouterr().out
    files = {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert all(name in shown for name in files)
    assert "## The merge" in shown
    assert f"dry run   {len(files)} files" in shown
    assert hub["calls"] == []

    (out / "README.md").write_text("# edited\n")
    execute(words(written, out, "--push"))
    files |= {name: (out / name).read_bytes() for name in ("README.md", "export.json")}
    assert json.loads(files["export.json"])["sha256"]["README.md"] == hashlib.sha256(b"# edited\n").hexdigest()
    uploaded = {}
    for line in hub["commit"]:
        value = line["value"]
        if line["key"] == "file":
            uploaded[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            uploaded[value["path"]] = hub["lfs"][value["oid"]]
            assert hashlib.sha256(uploaded[value["path"]]).hexdigest() == value["oid"]
    assert uploaded == files
    assert len(hub["lfs"]) == 1
    assert hub["created"]["visibility"] == "private"
    assert hub["tokens"] == {f"Bearer {TOKEN}"}
    printed = capsys.readouterr()
    assert f"uploaded  {len(files)} files" in printed.out
    assert TOKEN not in printed.out + printed.err


def test_a_refused_upload_is_one_sentence_without_the_token(written, tmp_path, hub):
    hub["refuses"] = True
    message = error_of(*words(written, copy_of(written, tmp_path), "--push"))
    assert "--repo jane/bot: the hub refused the upload: " in message
    assert "403" in message
    assert TOKEN not in message


def test_changed_files_and_other_directories_are_not_uploaded(written, tmp_path, hub):
    out = copy_of(written, tmp_path)
    assert "it was written with --dtype float32" in error_of(*words(written, out, "--push", "--dtype", "bfloat16"))
    (out / "notes.txt").write_text("new")
    (out / "config.json").write_text("{}")
    assert "config.json, notes.txt differ from what was exported" in error_of(*words(written, out, "--push"))
    (out / "export.json").unlink()
    assert "no export to the hub wrote it" in error_of(*words(written, out, "--push"))
    assert hub["calls"] == []


def test_mistakes_are_refused_before_anything_is_written(written, tmp_path, monkeypatch):
    run = written.path
    assert "--repo USER/NAME" in error_of("export", run, "--to", "hub")
    assert "it is not the name of a repository" in error_of("export", run, "--to", "hub", "--repo", "a/b/c")
    assert "--to merged uploads nothing" in error_of("export", run, "--repo", "jane/bot")
    assert "HF_HUB_OFFLINE forbids requests" in error_of(*words(written, tmp_path / "new", "--push"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "there is no token of the hub" in error_of(*words(written, tmp_path / "new", "--push"))
    assert not (tmp_path / "new").exists()
