"""How many tokens a model takes, read from its config.json. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.config.paths import resolve

NAMES = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "context_length"),
    "model_max_length",
)
"""What models call the most tokens they take, the usual name first."""
UNLIMITED = frozenset({"bloom"})
"""Families whose config.json names a length that does not bound them."""


def max_positions(stated: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model takes; None for families without such a limit (BLOOM, Mamba).

    Args:
        stated: The values of its config.json; those of its text model count, where they are apart.
    """
    if stated.get("model_type") in UNLIMITED:
        return None
    text = stated.get("text_config")
    sections = [text, stated] if isinstance(text, Mapping) else [stated]
    values = [section.get(name) for section in sections for name in NAMES]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def read_context_length(model: str | None, revision: str | None = None) -> int | None:
    """Return the most tokens that a model takes, by its directory or hub id; None where that is not known here.

    Nothing is downloaded: of a hub id the config.json counts that was stored with its tokenizer.
    """
    file = None if model is None else _config_file(model, revision)
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return max_positions(found) if isinstance(found, dict) else None


def _config_file(model: str, revision: str | None) -> Path | None:
    """The model's config.json; None where there is none on this machine."""
    directory = Path(resolve(model))
    if directory.is_dir():
        return directory / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        stored = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(stored) if isinstance(stored, str) else None
