"""Pools of rows without texts, for the tests of the mix."""

import hashlib
from collections.abc import Sequence

import numpy as np

from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.mixing.epoch_draw import Pool


def digests(contents: Sequence[object]) -> np.ndarray:
    """Return ``(rows,)`` S16: equal contents have equal keys."""
    return np.array([hashlib.blake2b(repr(one).encode(), digest_size=16).digest() for one in contents], "S16")


def pool(name: str, source: SourceConfig, trained: Sequence[int], contents: Sequence[object] | None = None) -> Pool:
    """Return a pool of rows with these numbers of trained tokens and equally long prompts."""
    tokens = np.array(trained, np.int64)
    keys = digests([(name, row) for row in range(len(trained))] if contents is None else contents)
    return Pool(name, source, keys, tokens, 2 * tokens)


def pools(data: DataConfig, trained: dict[str, Sequence[int]]) -> list[Pool]:
    """Return a pool for every source of the mix."""
    return [pool(name, source, trained[name]) for name, source in data.mix.items()]
