"""Refuse models with incomplete weights, and find models whose tokens attend to later ones."""

import json
from collections.abc import Collection
from pathlib import Path

from transformers import PretrainedConfig

from sft_cli.config.model_files.weights import CONVERT, require_weights
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError

ALWAYS_CAUSAL = {"gpt_neox", "gpt_neox_japanese", "trocr"}
"""Families that are causal although their configuration has ``is_decoder``, which has no effect there."""
NEVER_CAUSAL = {"cpmant"}
"""Families whose tokens attend to later ones, whatever the configuration says."""


def model_error(config: ModelConfig, problem: str, fix: str) -> SftError:
    """Build an error about model.path."""
    return SftError(where=f"model.path={config.path}", problem=problem, fix=fix)


def is_bidirectional(config: PretrainedConfig) -> bool:
    """Return whether tokens attend to later ones: always, or as configured (BERT, XLNet)."""
    values, kind = config.to_dict(), config.model_type
    unmasked = False in (values.get("is_decoder"), values.get("causal")) or values.get("attn_type") == "bi"
    return kind in NEVER_CAUSAL or (unmasked and kind not in ALWAYS_CAUSAL)


def check_weight_files(config: ModelConfig, directory: Path) -> None:
    """Refuse a local model without complete safetensors weights; pickled weights are never read."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise model_error(config, f"{index.name} is not readable", "download the model again") from error
        if other_files := [shard for shard in shards if not str(shard).endswith(".safetensors")]:
            raise model_error(
                config, f"{other_files[0]!r} is not a safetensors file, and pickled weights are not read", CONVERT
            )
        if missing := [shard for shard in shards if not (directory / shard).is_file()]:
            raise model_error(config, f"weight file {missing[0]} is missing", "download the model again")
    require_weights(config)


def refuse_missing_weights(config: ModelConfig, names: Collection[str]) -> None:
    """Refuse a model whose files lack weights, which transformers replaces by random numbers."""
    if names:
        first, *others = sorted(names)
        more = f" and {len(others)} more" if others else ""
        raise model_error(
            config,
            f"its files have no weights for {first}{more}; they would be random numbers",
            "download the model again, or save it again with save_pretrained of the installed transformers",
        )
