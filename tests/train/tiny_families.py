"""A tiny configuration of every model type that transformers loads as a causal language model."""

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 24,
    "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "ffn_dim": 64, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "mamba_chunk_size": 8, "chunk_size": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_head_dim": 16, "linear_num_heads": 4, "rotary_dim": 8, "is_decoder": True, "causal": True,
}  # fmt: skip
"""Sizes by the name that most families give them; a family gets those that its configuration has."""
LATENT_SIZES: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
"""The same for families with latent attention, whose heads have two parts."""
TOWER_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "embed_dim": 64,
    "depth": 2, "num_heads": 2, "out_hidden_size": 64, "image_size": 28, "patch_size": 14, "d_model": 64,
    "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
}  # fmt: skip
"""The same for the parts of a model that read images or sound."""
PER_LAYER = {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8}
ASSISTANT = {
    "num_hidden_layers": 2, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
    "num_kv_shared_layers": 2,
}  # fmt: skip
NOTE = {
    **LATENT_SIZES, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 24,
    "per_layer_config": {}, "layer_types": ["indexed_attention", "sliding_attention"],
}  # fmt: skip
SOUND_TOWER = {"hidden_size": 64, "num_attention_heads": 4, "adapter_input_size": 64, "adapter_out_dim": 64}
GLOBAL = {"hidden_size_global": 64}
SPARSE_TOWER = {
    "hidden_size": 64, "num_attention_heads": 4, "mlp_layer_types": ["dense", "sparse"], "adapter_in_dim": 64,
    "adapter_out_dim": 64,
}  # fmt: skip
OWN_SIZES: dict[str, dict[str, Any]] = {
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        **{f"{part}_config": {**SIZES, **GLOBAL} for part in ("patcher", "encoder", "decoder", "global")},
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None},
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64},
    },
    "deepseek_v4": {
        "num_key_value_heads": 1, "head_dim": 64, "o_groups": 2, "o_lora_rank": 16, "index_n_heads": 2,
        "index_head_dim": 16, "index_topk": 8,
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": NOTE,
    "dots3_note": {"text_config": NOTE, "vision_config": SPARSE_TOWER, "audio_config": SOUND_TOWER},
    "gemma3n_text": {
        **PER_LAYER, "num_kv_shared_layers": 0, "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0],
        "intermediate_size": [64, 64], "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_text": PER_LAYER,
    "gemma4": {"text_config": PER_LAYER},
    "gemma4_assistant": {"text_config": ASSISTANT},
    "gemma4_unified_assistant": {"text_config": ASSISTANT},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"num_layers": 1, "num_hidden_layers": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 8},
    "phi4_multimodal": {"audio_config": {"nemo_conv_channels": 32, "ext_pw_out_channel": 64}},
    "roc_bert": {"shape_vocab_size": 32, "shape_embed_dim": 16, "pronunciation_embed_dim": 16},
    "reformer": {"axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 48], "attention_head_size": 16},
    "xlnet": {"d_head": 16},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What the tables do not make tiny or consistent: hashes and vocabularies of a family's own, and lists by layer."""


def tiny_config(kind: str) -> PretrainedConfig:
    """Return the configuration of a model type with the sizes of the tables."""
    config_class = CONFIG_MAPPING[kind]
    return config_class(**_sizes(config_class, SIZES, OWN_SIZES.get(kind, {})))


def _sizes(config_class: type[PretrainedConfig], sizes: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return what to set in a configuration and in those inside it."""
    parts = config_class.sub_configs
    default = config_class(**{name: value for name, value in own.items() if name in parts})
    names = {*default.to_dict(), *config_class.attribute_map}
    latent = LATENT_SIZES if "qk_rope_head_dim" in names else {}
    found = {name: value for name, value in {**sizes, **latent}.items() if name in names}
    for part in parts:
        inner = vars(default).get(part)
        if isinstance(inner, PretrainedConfig):
            inner_sizes = SIZES if part in ("text_config", "decoder") else TOWER_SIZES
            found[part] = {"model_type": inner.model_type, **_sizes(type(inner), inner_sizes, own.get(part, {}))}
    return {**found, **{name: value for name, value in own.items() if name not in parts}}
