"""Ways to break a model or an adapter, each with the check that finds it."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file


def change(file: Path, **values) -> None:
    """Set values in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def template(model: Path) -> None:
    file = model / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant: ", "assistant:"))


def stops(model: Path) -> None:
    change(model / "generation_config.json", eos_token_id=0)


def no_stops(model: Path) -> None:
    (model / "generation_config.json").unlink()


def merges(model: Path) -> None:
    data = json.loads((model / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][2:]
    (model / "tokenizer.json").write_text(json.dumps(data))


def weights(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)


def vocabulary(model: Path) -> None:
    change(model / "config.json", vocab_size=321)


def missing(model: Path) -> None:
    (model / "model.safetensors").unlink()


def cut(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def dtype(model: Path) -> None:
    change(model / "config.json", dtype="bfloat16")


def larger_ids(model: Path) -> None:
    data = json.loads((model / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 400, "content": "<|new|>"})
    (model / "tokenizer.json").write_text(json.dumps(data))


def tied(model: Path) -> None:
    change(model / "config.json", tie_word_embeddings=True)


BROKEN_MODELS = [
    (template, "template", "chat_template.jinja differs from the trained one in line 1"),
    (template, "chat template", "3 of 3 have other ids than in training; facts.jsonl:1: from id"),
    (stops, "stops", "generation_config.json stops at [0], the run was trained to stop at [5], too"),
    (no_stops, "stops", "generation_config.json names no stop token: answers do not end"),
    (merges, "tokenizers", "have other ids than in training; facts.jsonl:2: from id"),
    (weights, "sha256", "model.safetensors has changed since the export"),
    (vocabulary, "sizes", "config.json names a vocabulary of 321, the embedding has 320 rows"),
    (missing, "weights", "there is no safetensors file"),
    (missing, "sha256", "model.safetensors is missing"),
    (cut, "weights", "model.safetensors cannot be read: "),
    (dtype, "dtype", "config.json names bfloat16, the weights are float32"),
    (larger_ids, "sizes", "the tokenizer has id 400, the embedding 320 rows"),
    (tied, "vllm", "config.json ties the head to the embedding, but the head has its own weights, which vLLM ignores"),
]


def set_adapter(**values):
    """Return a function that sets values in an adapter's configuration."""
    return lambda adapter: change(adapter / "adapter_config.json", **values)


def narrow(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor[:, :16].clone() for name, tensor in tensors.items()}, file, {"format": "pt"})


BROKEN_ADAPTERS = [
    (set_adapter(modules_to_save=["lm_head"]), "vllm", "vLLM refuses an adapter with whole modules (modules_to_save)"),
    (set_adapter(use_dora=True), "vllm", "vLLM refuses an adapter with DoRA magnitudes: merge first"),
    (set_adapter(peft_type="IA3"), "vllm", "vLLM loads LoRA adapters only, not IA3: merge first"),
    (set_adapter(r=1024), "vllm", "vLLM loads ranks up to 512, not 1024: merge first"),
    (set_adapter(target_modules=["lm_head"]), "vllm", "vLLM computes a LoRA on the embedding or the head for some"),
    (set_adapter(bias="all"), "tgi", "TGI refuses an adapter with biases: merge first"),
    (set_adapter(base_model_name_or_path="/nowhere/base"), "base", "the base /nowhere/base is gone"),
    (set_adapter(base_model_name_or_path=None), "base", "adapter_config.json names no base model"),
    (narrow, "base", "the adapter is for another base: model.layers."),
    (set_adapter(), "llama.cpp", "it loads GGUF files: convert"),
]
