"""Shrink a model's configuration so that a step runs on any machine: few narrow layers, random weights.

Everything that determines the computation stays: family, attention with its groups, windows and caps, experts,
positions, norms, tied embeddings, the vocabulary. Sizes are multiples of 64, which four-bit weights on a CPU need.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from transformers import PretrainedConfig

WIDTH, HEADS, HEAD_WIDTH, INNER, EXPERT = 128, 2, 64, 256, 64
WINDOW = 16
"""Tokens of a sliding window: shorter than most examples, so that windows have an effect."""
MOST_LAYERS = 8
SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "head_dim": HEAD_WIDTH,
    "intermediate_size": INNER,
    "ffn_dim": INNER,
    "n_inner": INNER,
    "ffn_hidden_size": INNER,
    "word_embed_proj_dim": WIDTH,
    "moe_intermediate_size": EXPERT,
    "shared_expert_intermediate_size": EXPERT,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    "rotary_dim": 32,
    "sliding_window": WINDOW,
}
"""Largest value of each size, by its common name; smaller or unused values (0, null) stay."""
TOWER_LAYERS = ("num_hidden_layers", "encoder_layers", "depth", "num_layers")
"""Names of the number of layers in image and audio towers, which text does not use."""
MANY = ("hidden_size", "intermediate_size", "head_dim")
"""Sizes that are set even if the model's own is smaller, because the other sizes depend on them."""


def shrink_config(architecture: PretrainedConfig) -> PretrainedConfig:
    """Return a small copy of the configuration."""
    small = deepcopy(architecture)
    for name in ("quantization_config", "torch_dtype", "dtype"):
        vars(small).pop(name, None)
    text = small.get_text_config()
    text.update(shrunk_values(text.to_dict(), text.attribute_map))
    for name in small.sub_configs:
        part = vars(small).get(name)
        if isinstance(part, PretrainedConfig) and part is not text:
            part.update({key: 1 for key in TOWER_LAYERS if isinstance(part.to_dict().get(key), int)})
    return small


def shrunk_values(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that differ in the small configuration.

    Args:
        values: The values of the configuration.
        names: Common name -> name in this family, where they differ.
    """

    def own(name: str) -> str:
        return names.get(name, name)

    found: dict[str, Any] = {}
    for name, most in SIZES.items():
        value = values.get(own(name))
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[own(name)] = most if name in MANY else min(value, most)
    if "qk_rope_head_dim" in found:
        found["head_dim"] = found["qk_rope_head_dim"]
    heads, groups = values.get(own("num_attention_heads")), values.get(own("num_key_value_heads"))
    if isinstance(groups, int) and isinstance(heads, int):
        found[own("num_key_value_heads")] = found[own("num_attention_heads")] if groups == heads else 1
    layers = values[own("num_hidden_layers")]
    few = shrink_layer_list(layers, values)
    found[own("num_hidden_layers")] = few
    for name, value in values.items():
        if isinstance(value, list) and len(value) == layers:
            found[name] = value[:few]
        elif name.endswith(("dropout", "pdrop", "dropout_prob")) and isinstance(value, float):
            found[name] = 0.0
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, Mapping):
            found[name] = _rope(value, values, own)
    return found


def shrink_layer_list(layers: int, values: Mapping[str, Any]) -> int:
    """Return the number of layers to keep: at least two, up to one of each kind listed."""
    kinds = [value for value in values.values() if isinstance(value, list) and len(value) == layers]
    if not kinds:
        return min(2, layers)
    combined = [str(values) for values in zip(*kinds, strict=True)]
    last = max(combined.index(kind) for kind in set(combined))
    return min(max(2, last + 1), MOST_LAYERS, layers)


def _rope(value: Mapping[str, Any], values: Mapping[str, Any], own: Callable[[str], str]) -> dict[str, Any]:
    """Return the rotary settings with lists cut to the pairs of a small head.

    Args:
        value: The settings.
        values: The configuration that contains them.
        own: Function from the common name to the name in this family.
    """
    found = {
        name: part[: HEAD_WIDTH // 2] if isinstance(part, list) and name.endswith("_factor") else part
        for name, part in value.items()
    }
    if (sections := value.get("mrope_section")) is not None:
        width = values.get(own("head_dim")) or values[own("hidden_size")] // values[own("num_attention_heads")]
        rest = [part * HEAD_WIDTH // width for part in sections[1:]]
        found["mrope_section"] = [sum(sections) * HEAD_WIDTH // width - sum(rest), *rest]
    return found
