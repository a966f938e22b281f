"""Where things lie: the user's paths, the embedded files, the cache and the runs."""

import os
import time
from importlib.resources import files
from pathlib import Path

BUILTIN = "builtin:"


def resolve(path: str) -> str:
    """The real path behind ``builtin:quickstart/model`` or ``~/rows.jsonl``; anything else, a hub id too, unchanged."""
    if path.startswith(BUILTIN):
        return str(files("sft_cli").joinpath(path.removeprefix(BUILTIN)))
    return os.path.expanduser(path)


def cache_home() -> Path:
    """``$SFT_HOME`` if set, else ``~/.cache/sft``: prepared data lives below it."""
    return Path(os.environ.get("SFT_HOME") or Path.home() / ".cache" / "sft")


def default_run_dir(run_name: str) -> Path:
    """``runs/<run_name>-<date>-<time>`` below ``$SFT_HOME`` if set, else below the working directory."""
    base = Path(os.environ.get("SFT_HOME") or ".")
    return base / "runs" / f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}"
