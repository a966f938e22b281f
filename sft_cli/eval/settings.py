"""Which keys of a run's config an evaluation may change."""

import re
from collections.abc import Sequence

from sft_cli.config.compose import with_overrides
from sft_cli.config.files.search_path import search_path
from sft_cli.config.keys.typos import shell_quote
from sft_cli.config.overrides.parse import expand_paths, reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.config import Config
from sft_cli.run_dir import RunDir

READ = (
    "data",
    "eval",
    "model.path",
    "model.revision",
    "model.dtype",
    "model.trust_remote_code",
    "trainer.device",
    "trainer.dtype",
    "trainer.max_length",
    "speed.tokens_per_micro_batch",
    "speed.logits_chunk",
)
"""Keys, and groups with all their keys, that may differ from the run's config; anything else would have no effect."""
NOT_READ = {r"eval\.(compare_after_training|samples)": ""}
"""Patterns of keys of those groups that no evaluation reads -> what works instead, or nothing."""
TRAINED = (
    r"data\.(strategy|temperature|stopping_strategy|total_rows|stages.*|budget\.filtered"
    r"|mix\.\w+\.(weight|cap|epochs|priority))"
)
"""Keys that select the training rows; with the run's own data, none changes the evaluated rows."""
ROWS = r"data\.mix\.\w+\.(path|split|name|revision|max_rows|stream|shuffle_buffer)"
"""Keys that name rows to train on: those that are evaluated are named otherwise."""
SETTABLE = f"data=FILE, {', '.join(READ[2:])}, and the other keys of eval"


def eval_config(run: RunDir, trained: Config, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the config of an evaluation.

    Args:
        run: The run.
        trained: Its own config.
        overrides: Of ``sft eval``.
        config_dirs: Directories of recipes and options.

    Raises:
        SftError: An override would have no effect on an evaluation.
    """
    rest = expand_paths(overrides, search_path(config_dirs).options)
    other = any(word.startswith("data=") for word in rest)
    config = absolute(with_overrides(trained, [*rest, *_all_of_them(rest, other)], config_dirs)) if rest else trained
    not_read = NOT_READ if other else NOT_READ | _of_training(str(run.path), rest)
    reject_unused("sft eval", rest, read=READ, not_read=not_read, settable=SETTABLE)
    check_required(config, "eval")
    return config


def _all_of_them(words: Sequence[str], other: bool) -> list[str]:
    """Return the override that evaluates every row of other data, unless a number of rows is set."""
    asked = any(word.startswith(("data.val_fraction=", "data.val_rows=")) for word in words)
    return ["data.val_fraction=0"] if other and not asked else []


def _of_training(run: str, words: Sequence[str]) -> dict[str, str]:
    """Return the advice for keys that change only training rows, not the run's held-out rows."""
    named = next((word.partition("=")[2] for word in words if re.fullmatch(rf"{ROWS}=.*", word)), "FILE")
    return {TRAINED: "", ROWS: f"to evaluate other rows: sft eval {shell_quote(run)} {shell_quote(f'data={named}')}"}
