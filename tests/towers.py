"""Tiny random multimodal models: a tower, a projector and a language model each."""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from sft_cli.model.language_model import auto_class

TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.1, "max_position_embeddings": 512,
}  # fmt: skip
MIXED = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
TOWER = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
IDS = {"image_token_id": 300, "video_token_id": 303, "vision_start_token_id": 301, "vision_end_token_id": 302}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
SOUND = {
    "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 8,
    "max_source_positions": 16,
}  # fmt: skip
TOWERS = {
    "gemma3": {
        "text_config": {**TEXT, **MIXED}, "vision_config": TOWER, "mm_tokens_per_image": 4, "image_token_index": 300,
        "boi_token_index": 301, "eoi_token_index": 302,
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 32}, "image_token_index": 300,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "num_key_value_heads": 2, "rope_scaling": MROPE},
        "vision_config": {**QWEN, "fullatt_block_indexes": [0]}, **IDS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_scaling": {**MROPE, "mrope_interleaved": True}},
        "vision_config": {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}, **IDS,
    },
    "llava": {
        "text_config": {**TEXT, "num_key_value_heads": 2, "model_type": "llama"},
        "vision_config": {**TOWER, "model_type": "clip_vision_model"},
        "image_token_index": 300,
    },
    "idefics3": {
        "text_config": {**TEXT, "model_type": "llama"}, "vision_config": TOWER, "image_token_id": 300,
        "scale_factor": 1,
    },
    "qwen2_audio": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "audio_config": {**SOUND, "model_type": "qwen2_audio_encoder"}, "audio_token_index": 300,
    },
}  # fmt: skip
"""Model type -> configuration; the Qwen-VL types have positions of three axes."""


def built(kind: str) -> PreTrainedModel:
    """Return a float32 model of the type by its own class, with the same weights every time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **TOWERS[kind])
    return auto_class(config).from_config(config)


def saved(kind: str, directory: Path) -> PreTrainedModel:
    """Write the same model to the directory, with the files of an empty processor, and return it."""
    model = built(kind)
    model.save_pretrained(directory)
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        (directory / name).write_text('{"processor_class": "Of' + name[:5] + '"}')
    return model
