"""Hub data sets, read by the real clients from a small hub on this machine.

The clients read their environment on import, so they run in separate processes.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "a1b2" * 10
FILES = {
    "train.jsonl": b'{"prompt": "Q", "completion": "A"}\n{"prompt": "R", "completion": "B"}\n',
    "README.md": b"---\nconfigs:\n- config_name: default\n"
    b"  data_files:\n  - split: train\n    path: train.jsonl\n---\n",
}
INFO = "/api/datasets/owner/MyName"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that the clients request: one data set; its branch gets a commit after the first request."""

    asked = False

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def log_message(self, format, *arguments):
        pass

    def _answer(self):
        path = self.path.split("?")[0]
        file = path.split("/")[-1]
        code, headers, body = 404, {"X-Error-Code": "EntryNotFound"}, b""
        if path in (INFO, f"{INFO}/revision/{COMMIT}", f"{INFO}/revision/main"):
            moved = path == INFO and Hub.asked
            Hub.asked |= path == INFO
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "owner/MyName", "sha": "f" * 40 if moved else COMMIT, "siblings": siblings}
            code, body = 200, json.dumps(info).encode()
        elif path.startswith(f"{INFO}/revision/"):
            headers = {"X-Error-Code": "RevisionNotFound"}
        elif path.startswith("/api/datasets/owner/gated"):
            code, headers = 403, {"X-Error-Code": "GatedRepo"}
        elif path.startswith(f"{INFO}/tree/"):
            names = FILES.items()
            listed = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in names]
            code, body = 200, json.dumps(listed).encode()
        elif path.startswith("/api/datasets/"):
            headers = {"X-Error-Code": "RepoNotFound"}
        elif re.match(f"/datasets/owner/MyName/resolve/({COMMIT}|main)/", path) and file in FILES:
            code, body = 200, FILES[file]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if "Range" in self.headers:
                start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
                headers["Content-Range"] = f"bytes {start}-{stop}/{len(body)}"
                code, body = 206, body[int(start) : int(stop) + 1]
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def hub():
    Hub.asked = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


READ = """
import json, sys
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources.source_rows import read_source, source_fingerprint
from sft_cli.errors import SftError

for values in json.loads(sys.argv[1]):
    config = SourceConfig(**values)
    try:
        rows = [[row.where, dict(row.values)] for row in read_source(config, "mine", "train")]
        print(json.dumps([rows, source_fingerprint(config, "mine")]))
    except SftError as error:
        print(json.dumps(str(error)))
"""


def read_in_a_process(home, configs, **environment):
    """Return the results of ``read_source`` and ``source_fingerprint`` for each config, or the message of the error."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command = [sys.executable, "-c", READ, json.dumps(configs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_online_then_offline(hub, tmp_path):
    """The rows of a pinned commit; without a network, the same rows and fingerprint."""
    rows = [
        [f"owner/MyName@{COMMIT[:12]}[train]:1", {"prompt": "Q", "completion": "A"}],
        [f"owner/MyName@{COMMIT[:12]}[train]:2", {"prompt": "R", "completion": "B"}],
    ]
    pinned = {"train": {"hub": "owner/MyName", "name": None, "split": "train", "revision": COMMIT}}
    page = "https://huggingface.co/datasets/owner/MyName"
    check = f"  fix: data.mix.mine.split=SPLIT from {page}; offline, only cached data sets can be loaded"
    online = {
        "plain": ({"path": "owner/MyName"}, [rows, pinned]),
        "branch": ({"path": "owner/MyName", "revision": "main"}, [rows, pinned]),
        "no such data set": (
            {"path": "owner/other"},
            "data.mix.mine.path: 'owner/other' is neither a local path nor a data set on the hub\n"
            "  fix: data.mix.mine.path=OWNER/NAME; for a private data set, hf auth login",
        ),
        "no such revision": (
            {"path": "owner/MyName", "revision": "nope"},
            "data.mix.mine.path: the hub data set 'owner/MyName' has no revision 'nope'\n"
            "  fix: data.mix.mine.revision=main, or any branch, tag or commit that exists",
        ),
        "no such split": (
            {"path": "owner/MyName", "split": "test"},
            "data.mix.mine.path: cannot load split 'test' of the hub data set 'owner/MyName': "
            f"Unknown split \"test\". Should be one of ['train'].\n{check}",
        ),
        "no such configuration": (
            {"path": "owner/MyName", "name": "nope"},
            "data.mix.mine.path: cannot load split 'train' of the hub data set 'owner/MyName': "
            f"BuilderConfig 'nope' not found. Available: ['default']\n{check}",
        ),
        "gated": (
            {"path": "owner/gated"},
            "data.mix.mine.path: the hub data set 'owner/gated' is gated\n"
            "  fix: accept its terms on https://huggingface.co/datasets/owner/gated, then hf auth login",
        ),
    }
    result = read_in_a_process(tmp_path, [config for config, _ in online.values()], HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert dict(zip(online, result, strict=True)) == {case: expected for case, (_, expected) in online.items()}

    newer = next((tmp_path / "datasets" / "owner___my_name").glob(f"*/*/{COMMIT}"))
    older = newer.with_name("e" * 40)
    shutil.copytree(newer, older)
    for path in (older, *older.iterdir()):
        os.utime(path, (0, 0))
    offline = [
        ({"path": "owner/MyName"}, [rows, pinned]),
        ({"path": "owner/MyName", "revision": COMMIT}, [rows, pinned]),
        (
            {"path": "owner/MyName", "revision": "e" * 40},
            f"data.mix.mine.path: the hub cannot be reached, and commit {'e' * 40} of 'owner/MyName' "
            "is not the newest one in the cache\n"
            "  fix: run the command once with a network, or remove data.mix.mine.revision",
        ),
        (
            {"path": "owner/other"},
            "data.mix.mine.path: 'owner/other' is not a local path, and the hub cannot be reached\n"
            "  fix: data.mix.mine.path=FILE, or run the command once with a network",
        ),
    ]
    result = read_in_a_process(tmp_path, [config for config, _ in offline], HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert result == [expected for _, expected in offline]


@pytest.mark.slow
def test_hub_files_by_address(hub, tmp_path, monkeypatch):
    """One file, a glob, a directory; without a network, the stored file."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    rows = [
        ["train.jsonl:1", {"prompt": "Q", "completion": "A"}],
        ["train.jsonl:2", {"prompt": "R", "completion": "B"}],
    ]
    digest = hashlib.blake2b(FILES["train.jsonl"], digest_size=16).hexdigest()
    expected = [rows, {"train": {"files": [["train.jsonl", digest]]}}]
    base = "hf://datasets/owner/MyName"
    paths = [
        f"{base}/train.jsonl",
        f"{base}@main/*.jsonl",
        base,
        f"{base}/none.jsonl",
        "hf://datasets/owner/other/x.csv",
    ]
    *result, none, other = read_in_a_process(
        tmp_path, [{"path": path} for path in paths], HF_ENDPOINT=hub, HF_HUB_OFFLINE="0"
    )
    assert result == [expected] * 3
    fix = "check the address; data sets are hf://datasets/OWNER/NAME/FILE, private ones need hf auth login"
    assert none == f"data.mix.mine.path: '{base}/none.jsonl' does not exist\n  fix: {fix}"
    assert other == f"data.mix.mine.path: 'hf://datasets/owner/other/x.csv' does not exist\n  fix: {fix}"
    kept, unknown = read_in_a_process(
        tmp_path, [{"path": paths[0]}, {"path": paths[3]}], HF_ENDPOINT=hub, HF_HUB_OFFLINE="1"
    )
    assert kept == expected
    assert unknown == (
        f"data.mix.mine.path: the hub cannot be reached for '{base}/none.jsonl'\n"
        "  fix: data.mix.mine.path=URL with the right address, or run the command again with a network"
    )


def test_hub_id_without_a_network_is_one_error(tmp_path):
    """A path that looks like a hub id fails at once if there is no network, even without HF_HUB_OFFLINE."""
    result = read_in_a_process(
        tmp_path, [{"path": "owner/MyName"}], HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0"
    )
    assert result == [
        "data.mix.mine.path: 'owner/MyName' is not a local path, and the hub cannot be reached\n"
        "  fix: data.mix.mine.path=FILE, or run the command once with a network"
    ]
