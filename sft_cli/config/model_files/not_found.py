"""Fixes for a model or tokenizer that is neither a local directory nor reachable on the hub."""

import os

from sft_cli.config.keys.typos import override_word
from sft_cli.utils.home import expand_home
from sft_cli.utils.similar import closest_name

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that keep the hub client offline."""
BUILTIN_MODEL = "builtin:quickstart/model"
"""The model that the package contains."""


def suggest_directory(path: str, key: str) -> str:
    """Return the directory whose name is nearest to a missing one, or what else to check."""
    if path.startswith("builtin:") or path.rstrip("/") in (BUILTIN_MODEL.removeprefix("builtin:"), "quickstart"):
        return f"did you mean {override_word(key, BUILTIN_MODEL)}?"
    missing = expand_home(path)
    parent = missing.parent
    names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    if (similar := closest_name(missing.name, names)) is not None:
        return f"did you mean {override_word(key, str(parent / similar))}?"
    if not parent.is_dir() and parent.parent.is_dir():
        folders = [entry.name for entry in parent.parent.iterdir() if (entry / missing.name).is_dir()]
        if (similar := closest_name(parent.name, folders)) is not None:
            return f"did you mean {override_word(key, str(parent.parent / similar / missing.name))}?"
    return "check the path, or name a hub id such as Qwen/Qwen2.5-0.5B"


def suggest_hub_fix(path: str, key: str) -> str:
    """Return the fix for a hub id that was not found: a local directory, the offline switch, or the id itself."""
    if (suggestion := suggest_directory(path, key)).startswith("did you mean"):
        return suggestion
    offline = [name for name in OFFLINE if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")]
    if offline:
        return (
            f"{offline[0]}={os.environ[offline[0]]} is set in this shell, and the model is not in its cache:"
            f" unset {offline[0]}, or name a local directory"
        )
    return "check the name, the network and your access token (hf auth login), or name a local directory"
