"""A run on rows with a signed address: the signature is not written to the disk, and resuming does not need it."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.data.sources import remote
from sft_cli.errors import SftError

SECRET = "a-signed-word"


class Signed(SimpleHTTPRequestHandler):
    """Serve files to requests with the signature."""

    def do_GET(self):
        self.end(super().do_GET)

    def do_HEAD(self):
        self.end(super().do_HEAD)

    def end(self, answer):
        if f"sig={SECRET}" in self.path:
            answer()
        else:
            self.send_error(403)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def address(rows):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Signed, directory=str(rows.parent)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{rows.name}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _a_new_process():
    forget()


def forget():
    remote.find_files.cache_clear()
    remote.download.cache_clear()


def files_with_secret(directory: Path) -> list[str]:
    """Return the files below a directory that contain the secret in their bytes or their names."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if SECRET in str(path) or SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_signature_is_not_written_and_the_download_is_reused(runs, address, tmp_path, capsys):
    done = runs.start("r", f"data.mix.local.path={address}?sig={SECRET}", "trainer.max_steps=2", "trainer.save_every=1")
    assert files_with_secret(tmp_path) == []
    assert f"path: {address}?sig=***" in done.config.read_text()

    shutil.rmtree(done.adapter)
    shutil.rmtree(done.checkpoints / "step-2")
    forget()
    runs.resume("r")
    execute(["eval", str(done.path), "eval.max_new_tokens=4"])
    output = capsys.readouterr()
    assert files_with_secret(tmp_path) == []
    assert SECRET not in output.out + output.err


@pytest.mark.slow
def test_without_the_download_the_error_asks_for_the_address(runs, address, tmp_path):
    done = runs.start("r", f"data.mix.local.path={address}?sig={SECRET}", "trainer.max_steps=2", "trainer.save_every=1")
    shutil.rmtree(done.adapter)
    shutil.rmtree(done.checkpoints / "step-2")
    shutil.rmtree(tmp_path / "home" / "downloads")
    forget()
    with pytest.raises(SftError) as caught:
        runs.resume("r")
    assert str(caught.value) == (
        f"data.mix.local.path: the signature of '{address}' is not stored with a run\n"
        f"  fix: give the whole address again: data.mix.local.path='{address}?sig=…'"
    )
    runs.resume("r", f"data.mix.local.path={address}?sig={SECRET}")
    assert f"path: {address}?sig=***" in done.config.read_text()
    assert files_with_secret(tmp_path) == []
