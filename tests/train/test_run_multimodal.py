"""``sft train`` and ``sft merge`` from end to end on small random vision-language models."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sft_cli.model.language import beside_language, within
from sft_cli.model.merge.command import merge_command

TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.1, "max_position_embeddings": 512,
}  # fmt: skip
MIXED = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
TOWER = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
IDS = {"image_token_id": 300, "video_token_id": 303, "vision_start_token_id": 301, "vision_end_token_id": 302}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
KINDS = {
    "gemma3": {
        "text_config": {**TEXT, **MIXED}, "vision_config": TOWER, "mm_tokens_per_image": 4, "image_token_index": 300,
        "boi_token_index": 301, "eoi_token_index": 302,
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 32}, "image_token_index": 300,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_scaling": MROPE},
        "vision_config": {"depth": 1, "embed_dim": 64, "hidden_size": 64, "num_heads": 2}, **IDS,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_scaling": MROPE}, "vision_config": {**QWEN, "fullatt_block_indexes": [0]}, **IDS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_scaling": {**MROPE, "mrope_interleaved": True}},
        "vision_config": {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}, **IDS,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_vision_language_model_trains_on_text_and_merges(runs, metrics, base, tmp_path, capsys, kind, adapter):
    rows, model = tmp_path / "rows.jsonl", tmp_path / "base"
    model.mkdir()
    for file in base.glob("tokenizer*"):
        shutil.copy(file, model)
    rows.write_text("".join(json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(24)))
    torch.manual_seed(0)
    before = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **KINDS[kind]))
    before.save_pretrained(model)

    done = runs.start(
        "r", f"model.path={model}", f"data.mix.local.path={rows}", f"adapter.kind={adapter}", "trainer.max_steps=4",
        "trainer.dtype=float32", "trainer.threads=1", "eval.samples=1", "eval.max_new_tokens=3",
    )  # fmt: skip
    whole = done.path / "model"
    if adapter == "lora":
        merge_command([f"run={done.path}"], [])
        whole = done.path / "merged"

    said, steps, beside = capsys.readouterr().out, metrics(done), beside_language(before)
    assert f"the language model alone is trained: {', '.join(beside)} stay frozen" in said
    assert "packing   proven" in said
    assert min(step["loss"] for step in steps) < steps[0]["loss"]
    made = AutoModelForImageTextToText.from_pretrained(whole)
    assert type(made) is type(before)
    kept = dict(before.named_parameters())
    changed = [name for name, value in made.named_parameters() if not torch.equal(value, kept[name])]
    assert changed
    assert not [name for name in changed if within(name, beside)]
