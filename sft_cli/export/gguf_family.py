"""The model families that are written as GGUF: their llama.cpp architecture, hyperparameters and tensors.

llama.cpp defines the layout: the Llama architecture rotates pairs of neighbouring values, transformers pairs of values
from the two halves of a head, so the rows of q and k are reordered; Gemma's norms are stored with 1 added, because
llama.cpp multiplies by the weight alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sft_cli.errors import SftError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Attributes:
        arch: The name of llama.cpp's architecture.
        permuted: Whether the rows of q and k are reordered for the rotary embedding.
        norm_offset: Added to the weights of all norms.
    """

    arch: str
    permuted: bool = False
    norm_offset: float = 0.0


FAMILIES = {
    "llama": Family("llama", permuted=True),
    "mistral": Family("llama", permuted=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", norm_offset=1.0),
    "gemma2": Family("gemma2", norm_offset=1.0),
    "gemma3_text": Family("gemma3", norm_offset=1.0),
    "phi3": Family("phi3"),
}
"""Families by the ``model_type`` of config.json."""
GEMMA_27B = {("gemma2", 46), ("gemma3_text", 62)}
"""Models whose queries llama.cpp scales by hidden_size / heads instead of the head size: type and number of layers."""


def find_family(config: Any, fix: str) -> Family:
    """Return the family of a model's configuration.

    Args:
        config: The transformers configuration.
        fix: The fix for another family.

    Raises:
        SftError: The family is not written, or the model has a part that llama.cpp does not compute.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise SftError(
            where="--to gguf",
            problem=f"models of type {config.model_type} are not written as GGUF here ({', '.join(FAMILIES)} are)",
            fix=fix,
        )
    for problem in _unsupported(config, family):
        raise SftError(where="--to gguf", problem=f"llama.cpp cannot compute this model: {problem}", fix=fix)
    return family


def _unsupported(config: Any, family: Family) -> Iterator[str]:
    """Yield what llama.cpp would compute differently from transformers."""
    kinds = {rope["rope_type"] for rope in rope_settings(config).values()}
    known = {"default", "linear", *({"llama3"} if family.arch == "llama" else ()), *_long_ropes(family)}
    if wrong := kinds - known:
        yield f"rope_type {min(wrong)}"
    if config.model_type in ("qwen2", "qwen3") and config.use_sliding_window:
        yield "use_sliding_window is true"
    if config.model_type == "qwen3" and config.attention_bias:
        yield "attention_bias is true"
    if config.model_type.startswith("gemma"):
        if not config.tie_word_embeddings:
            yield "its head is not the embedding"
        if config.model_type != "gemma" and config.query_pre_attn_scalar != _query_scalar(config):
            yield f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, not {_query_scalar(config)}"
    if config.model_type == "gemma3_text" and rope_settings(config)["sliding_attention"]["rope_type"] != "default":
        yield "the rotary embedding of the sliding layers is scaled"
    if config.model_type == "gemma2" and not config.final_logit_softcapping:
        yield "final_logit_softcapping is not set, and llama.cpp always caps, by default at 30"
    if config.model_type == "gemma2" and _pattern(config) not in (2, None):
        yield "its sliding layers do not alternate"


def _long_ropes(family: Family) -> tuple[str, ...]:
    return ("longrope",) if family.arch == "phi3" else ("yarn",) if family.arch.startswith("qwen") else ()


def _query_scalar(config: Any) -> float:
    big = (config.model_type, config.num_hidden_layers) in GEMMA_27B
    return config.hidden_size // config.num_attention_heads if big else config.head_dim


def _pattern(config: Any) -> int | None:
    """Return n if every n-th layer attends to everything and the others to a window; None if the layers differ."""
    layers = config.layer_types
    full = [at for at, kind in enumerate(layers) if kind == "full_attention"]
    if not full:
        return len(layers) + 1
    period = full[0] + 1
    return period if full == list(range(period - 1, len(layers), period)) else None


def rope_settings(config: Any) -> dict[str, dict[str, Any]]:
    """Return the rotary settings by layer type; models with one kind have the name ``full_attention``."""
    rope = config.rope_parameters
    return {"full_attention": rope} if "rope_type" in rope else rope


def head_size(config: Any) -> int:
    """Return the size of a head."""
    size = vars(config).get("head_dim")
    return config.hidden_size // config.num_attention_heads if size is None else size


def add_hyperparameters(writer: Any, config: Any) -> None:
    """Add a model's sizes and constants to a GGUF writer."""
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping or 0.0)
    if config.model_type in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window_pattern(_pattern(config) or 6)
    _add_rope(writer, config)


def _context_length(config: Any) -> int:
    """Return the longest context; llama.cpp ignores the window of Mistral and Phi-3, so it is at most the window."""
    window = vars(config).get("sliding_window") if config.model_type in ("mistral", "phi3") else None
    length = config.max_position_embeddings
    return min(window, length) if window else length


def _add_rope(writer: Any, config: Any) -> None:
    """Add the settings of the rotary embedding."""
    import gguf

    settings = rope_settings(config)
    rope = settings["full_attention"]
    writer.add_rope_dimension_count(int(head_size(config) * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if "sliding_attention" in settings:
        writer.add_rope_freq_base_swa(float(settings["sliding_attention"]["rope_theta"]))
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] in ("yarn", "longrope"):
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        if rope["rope_type"] == "longrope":
            writer.add_rope_scaling_attn_factors(_long_rope_attention_factor(config, rope, original))


def _long_rope_attention_factor(config: Any, rope: dict[str, Any], original: int) -> float:
    if (factor := rope.get("attention_factor")) is not None:
        return factor
    scale = config.max_position_embeddings / original
    return 1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))


def rope_tensors(config: Any) -> Iterator[tuple[str, Array]]:
    """Yield the tensors of rotary factors: each is the unscaled frequency divided by the scaled one."""
    rope = rope_settings(config)["full_attention"]
    if rope["rope_type"] == "llama3":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double().numpy()
        size = head_size(config)
        plain = float(rope["rope_theta"]) ** -(np.arange(0, size, 2, dtype=np.float64) / size)
        yield "rope_freqs.weight", (plain / scaled).astype(np.float32)
    if rope["rope_type"] == "longrope":
        for name in ("long", "short"):
            yield f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32)


def convert_tensor(name: str, tensor: Array, config: Any, family: Family) -> Array:
    """Return a tensor of the transformers model in llama.cpp's layout.

    Args:
        name: Its name in the transformers model.
        tensor: Its values in float32.
        config: The model's configuration.
        family: The model's family.
    """
    if family.permuted and ".self_attn.q_proj." in name:
        return _interleave(tensor, config.num_attention_heads)
    if family.permuted and ".self_attn.k_proj." in name:
        return _interleave(tensor, config.num_key_value_heads)
    return tensor + np.float32(family.norm_offset) if family.norm_offset and "norm" in name else tensor


def _interleave(tensor: Array, heads: int) -> Array:
    """Reorder the rows of each head: the two halves become neighbours."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
