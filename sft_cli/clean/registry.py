"""List the filters by name. The module of a filter is imported when it is used."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sft_cli.clean.base import Findings, RowView
from sft_cli.config.paths import resolve
from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.validate import to_plain
from sft_cli.utils.hashing import blake2b_of_file

FILTERS: Mapping[str, str] = {
    name: f"sft_cli.clean.{name}"
    for name in (
        "leakage",
        "exact_duplicates",
        "near_duplicates",
        "contamination",
        "pii",
        "language",
        "length",
        "heuristics",
        "quality",
        "perplexity",
    )
}
"""Name of a filter, and of its config block -> module with ``find_NAME(rows, block)``."""

FILTERS_WITH_CHECK = frozenset(FILTERS) - {"leakage", "exact_duplicates"}
"""Filters whose module also has ``check_NAME(block)``, which refuses invalid settings before a row is read."""


def run_filter(name: str, rows: RowView, config: CleanConfig) -> Findings:
    """Return the findings of one filter; see base.py."""
    return vars(import_module(FILTERS[name]))[f"find_{name}"](rows, vars(config)[name])


def check_filters(config: CleanConfig) -> None:
    """Check the libraries, files and settings of every step of ``config.steps``.

    Raises:
        SftError: Something is missing or invalid.
    """
    for name in config.steps:
        if name in FILTERS_WITH_CHECK:
            vars(import_module(FILTERS[name]))[f"check_{name}"](vars(config)[name])


def score_name(name: str, config: CleanConfig) -> str:
    """Return the name of a filter's scores in the ledger: that of the filter, or of the score that it reads."""
    configured = {"quality": config.quality.score, "perplexity": config.perplexity.score}
    return configured.get(name, name)


def filter_inputs(name: str, config: CleanConfig) -> dict[str, Any]:
    """Return the inputs of one filter's findings other than the rows: its block, and the bytes of its files."""
    block = to_plain(vars(config)[name])
    if name == "contamination":
        from sft_cli.clean.eval_sets import eval_set_files

        block["against"] = {
            eval_set: [[file.name, blake2b_of_file(file)] for file in eval_set_files(config.contamination, eval_set)]
            for eval_set in config.contamination.against
        }
    if name == "perplexity" and config.perplexity.model is not None:
        block["model"] = _weights(config.perplexity.model)
    return block


def _weights(model: str) -> Any:
    """Return the identity of a model: name, size and time of the files of a local one, else its name on the hub."""
    directory = Path(resolve(model))
    if not directory.is_dir():
        return model
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
