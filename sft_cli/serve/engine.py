"""The servers that can serve a model: their command lines and environment."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

Engine = Literal["vllm", "transformers"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
HOST = "127.0.0.1"
MODULES: Mapping[Engine, Sequence[str]] = {"vllm": ("vllm",), "transformers": ("fastapi", "uvicorn", "openai")}
"""Modules that a server needs besides those of this package."""
PACKAGES: Mapping[Engine, str] = {"vllm": "pip install vllm", "transformers": "pip install 'sft-cli[serve]'"}
PROGRAMS: Mapping[Engine, str] = {
    "vllm": "from vllm.entrypoints.cli.main import main; main()",
    "transformers": "from transformers.cli.transformers import main; main()",
}
"""Python programs of the servers; the scripts that pip installs need not be in PATH."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables with which no server sends a request to another machine."""


def choose_engine(wanted: Engine | None) -> Engine:
    """Return the server to use: the wanted one, else vLLM if it is installed, else transformers.

    Raises:
        SftError: It is not installed.
    """
    engine = wanted or ("vllm" if find_spec("vllm") else "transformers")
    if missing := [module for module in MODULES[engine] if find_spec(module) is None]:
        needed = "it is" if missing == [engine] else f"it needs {' and '.join(missing)}, which {_verb(missing)}"
        fix = PACKAGES[engine] + ("\n--engine transformers" if engine == "vllm" else "")
        raise SftError(where=f"--engine {engine}", problem=f"{needed} not installed", fix=fix)
    return engine


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def server_command(engine: Engine, name: str, port: int, *, trust_remote_code: bool) -> list[str]:
    """Return the command line that serves the directory ``name`` of the working directory under that name."""
    words = [sys.executable, "-c", PROGRAMS[engine], "serve", name, "--host", HOST, "--port", str(port)]
    return words + (["--trust-remote-code"] if trust_remote_code else [])


def server_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a server; ``folder`` holds an empty cache of the hub if this user has none.

    ``transformers serve`` answers ``/v1/models`` with an error if the directory of the cache does not exist.
    """
    home = expand_home(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    if not cache.is_dir():
        cache = folder / "hub"
        cache.mkdir(exist_ok=True)
    return {**os.environ, **OFFLINE, "HF_HUB_CACHE": str(cache)}
