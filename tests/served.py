"""``transformers serve`` with the model of the quickstart: a real OpenAI-compatible server on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sft_cli

TEMPLATE = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
SERVE = "from transformers.cli.transformers import main; main()"


def copy_quickstart(folder: Path) -> Path:
    """Copy the model of the quickstart, with a template."""
    shutil.copytree(Path(sft_cli.__file__).parent / "quickstart/model", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@contextmanager
def transformers_serve(folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve local models; yield the address of the API, and the server's log.

    Args:
        folder: Directory for the log and an empty cache of the hub.
    """
    (folder / "hub/hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HOME": str(folder / "hub")}
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words], stdout=stream, stderr=stream, env={**os.environ, **offline}
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
        yield f"http://127.0.0.1:{port}/v1", log
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Return whether a server answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until a condition holds while a process runs."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)
