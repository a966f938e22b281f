"""Read the context window of a model from its config.json, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.config.paths import resolve

NAMES = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "context_length"),
    "model_max_length",
)
"""Keys under which a config.json states the context window, the most common first."""
UNLIMITED = frozenset({"bloom"})
"""Model types whose config.json states a length that is not a limit."""


def max_positions(settings: Mapping[str, Any]) -> int | None:
    """Return the context window in tokens; None for families without a limit (BLOOM, Mamba).

    Args:
        settings: The values of its config.json; its ``text_config`` takes precedence.
    """
    if settings.get("model_type") in UNLIMITED:
        return None
    text_settings = settings.get("text_config")
    sections = [text_settings, settings] if isinstance(text_settings, Mapping) else [settings]
    values = [section.get(name) for section in sections for name in NAMES]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def read_context_length(model: str | None, revision: str | None = None) -> int | None:
    """Return the context window of a model by its directory or hub id; None where it is not known locally.

    Nothing is downloaded: for a hub id, the config.json in the local hub cache is read.
    """
    file = None if model is None else _config_file(model, revision)
    if file is None:
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return max_positions(settings) if isinstance(settings, dict) else None


def _config_file(model: str, revision: str | None) -> Path | None:
    """Return the model's config.json; None if it is not on this machine."""
    directory = Path(resolve(model))
    if directory.is_dir():
        return directory / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
