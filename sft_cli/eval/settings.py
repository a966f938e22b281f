"""The keys of a config that an evaluation may change: that of a run, or of a model that no run belongs to."""

import re
from collections.abc import Sequence
from dataclasses import replace

from sft_cli.config.compose import with_overrides
from sft_cli.config.files.search_path import search_path
from sft_cli.config.keys.typos import shell_quote
from sft_cli.config.overrides.parse import expand_paths, reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.eval.bare_model import BareModel
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
OF_BARE_MODELS = ("template", "quant", "model.tokenizer")
"""The same for a model that no run belongs to, in addition."""
NOT_READ = {r"eval\.(compare_after_training|samples)": ""}
"""Patterns of keys in those groups that no evaluation reads, each with advice or an empty text."""
TRAINED = (
    r"data\.(strategy|temperature|stopping_strategy|total_rows|stages.*|budget\.filtered"
    r"|mix\.\w+\.(weight|cap|epochs|priority))"
)
"""Keys that select training rows; with the run's own data, they do not change the evaluated rows."""
ROWS = r"data\.mix\.\w+\.(path|split|name|revision|max_rows|stream|shuffle_buffer)"
"""Keys that name training rows; rows to evaluate are named by data=FILE."""
SETTABLE = f"data=FILE, {', '.join(READ[2:])}, and the other keys of eval"


def eval_config(run: RunDir, trained: Config, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the config of an evaluation of a run.

    Args:
        run: The run.
        trained: The config of the run.
        overrides: The overrides of ``sft eval``.
        config_dirs: Directories of recipes and options.

    Raises:
        SftError: An override would have no effect on an evaluation.
    """
    config, expanded = _with_all(trained, overrides, config_dirs)
    not_read = NOT_READ if _has_other_data(expanded) else NOT_READ | _of_training(str(run.path), expanded)
    reject_unused("sft eval", expanded, read=READ, not_read=not_read, settable=SETTABLE)
    check_required(config, "eval")
    return config


def bare_eval_config(model: BareModel, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the config of an evaluation of a model that no run belongs to.

    Args:
        model: The model.
        overrides: The overrides of ``sft eval``.
        config_dirs: Directories of recipes and options.

    Raises:
        SftError: An override would have no effect on an evaluation.
    """
    config, expanded = _with_all(model.config(), overrides, config_dirs)
    names = keys_of_bare_model(model, READ)
    settable = f"data=FILE, {', '.join(names[2:])}, and the other keys of eval"
    reject_unused("sft eval", expanded, read=names, not_read=NOT_READ, settable=settable)
    return config


def keys_of_bare_model(model: BareModel, read: Sequence[str]) -> list[str]:
    """Return the keys that may be set for a model that no run belongs to, from those that may be set for a run."""
    # The path of a whole model is typed as the argument.
    return [name for name in (*read, *OF_BARE_MODELS) if model.is_adapter or name != "model.path"]


def _with_all(config: Config, overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[Config, list[str]]:
    """Return a config with overrides, and the overrides without those that choose suites."""
    expanded = expand_paths(overrides, search_path(config_dirs).options)
    chosen = [word for word in expanded if word.startswith("eval=")]
    if chosen:
        config, expanded = _with_suites(config, chosen, config_dirs), [w for w in expanded if w not in chosen]
    words = [*expanded, *_all_of_them(expanded, _has_other_data(expanded))]
    return _with_words(config, words, config_dirs), list(expanded)


def _has_other_data(words: Sequence[str]) -> bool:
    """Return whether overrides name the rows to evaluate on."""
    return any(word.startswith("data=") for word in words)


def _with_suites(trained: Config, words: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return a config with the chosen suites and their limits; its other settings of eval stay."""
    chosen = with_overrides(trained, words, config_dirs).eval
    own = replace(trained.eval, suites=chosen.suites, limit=chosen.limit, retention=chosen.retention)
    return replace(trained, eval=own)


def _with_words(trained: Config, words: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return a config with overrides; its micro-batches hold longer examples too, unless their size is set."""
    config = trained
    if words:
        choosing = replace(trained, speed=replace(trained.speed, tokens_per_micro_batch=Auto.auto))
        config = absolute(with_overrides(choosing, words, config_dirs))
    if not isinstance(config.speed.tokens_per_micro_batch, Auto):
        return config
    size = trained.speed.tokens_per_micro_batch
    tokens = config.trainer.max_length if isinstance(size, Auto) else max(size, config.trainer.max_length)
    return replace(config, speed=replace(config.speed, tokens_per_micro_batch=tokens))


def _all_of_them(words: Sequence[str], has_other_data: bool) -> list[str]:
    """Return the override to evaluate every row of other data, unless the number of held-out rows is set."""
    sets_rows = any(word.startswith(("data.val_fraction=", "data.val_rows=")) for word in words)
    return ["data.val_fraction=0"] if has_other_data and not sets_rows else []


def _of_training(run: str, words: Sequence[str]) -> dict[str, str]:
    """Return the advice for keys that change only training rows, not the run's held-out rows."""
    path = next((word.partition("=")[2] for word in words if re.fullmatch(rf"{ROWS}=.*", word)), "FILE")
    return {TRAINED: "", ROWS: f"to evaluate other rows: sft eval {shell_quote(run)} {shell_quote(f'data={path}')}"}
