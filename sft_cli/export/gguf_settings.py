"""Compare the numbers in a GGUF file with config.json.

Greedy answers do not show every wrong number: the cap of the final logits keeps their order, and a wrong context length
or window matters only for long texts.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_cli.export.gguf_family import head_size, rope_settings

KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Keys of GGUF, after the architecture, and those of config.json that every family has."""
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
WINDOWED = ("gemma2", "gemma3_text")
"""Types whose sliding window llama.cpp reads."""


def wrong_settings(file: Path, config: Any) -> list[str]:
    """Return a sentence for each number in a GGUF file that is not that of the model's configuration.

    Args:
        file: The GGUF file.
        config: The transformers configuration, from config.json.
    """
    from gguf import GGUFReader, Keys

    fields = GGUFReader(file).fields
    arch = str(fields[Keys.General.ARCHITECTURE].contents())
    wrong = []
    for key, expected in _expected(config):
        field = fields.get(f"{arch}.{key}")
        found = None if field is None else field.contents()
        if not _same(found, expected):
            wrong.append(f"{arch}.{key} is {_text(found)}, config.json has {_text(expected)}")
    return wrong


def _expected(config: Any) -> Iterator[tuple[str, float | None]]:
    """Yield the keys that llama.cpp reads for a family, with their values."""
    for key, name in KEYS.items():
        yield key, getattr(config, name)
    for key in ("attention.key_length", "attention.value_length"):
        yield key, head_size(config)
    if config.model_type in WINDOWED:
        yield "attention.sliding_window", config.sliding_window
        for key, name in CAPS.items():
            yield key, getattr(config, name, None)
    rope = rope_settings(config)["full_attention"]
    yield "rope.freq_base", rope["rope_theta"]
    if rope["rope_type"] in ("linear", "yarn"):
        yield "rope.scaling.factor", rope["factor"]


def _same(found: Any, expected: float | None) -> bool:
    """Return whether two numbers are equal in float32; no cap is a missing key or 0."""
    if not expected:
        return not found
    return isinstance(found, int | float) and math.isclose(found, expected, rel_tol=1e-6)


def _text(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.7g}" if isinstance(value, int | float) else str(value)
