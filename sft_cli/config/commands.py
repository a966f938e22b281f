"""The words of each command that set no key, as ``run=DIR``. Nothing heavy is imported: every command reads this."""

from collections.abc import Mapping

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("run",),
    "check": ("gpu", "rows", "tokens_per_second", "like", "price"),
    "sweep": ("sweep", "sweep_dir", "parallel", "metric", "mode"),
    "eval": ("run", "compare", "step"),
    "chat": ("run", "prompt", "system", "step"),
    "merge": ("run", "out", "into", "max_kl", "step"),
    "inspect": ("prepared", "row", "where", "text", "worst", "source", "n", "split"),
}
"""The words of a command that are no settings."""
