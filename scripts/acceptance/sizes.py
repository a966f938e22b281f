"""Sizes of each check: ``full`` on a card, ``dry`` on the simulator, where the same code runs on small shapes."""

from typing import Any

Sizes = dict[str, dict[str, Any]]
GIB = 2**30
LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
SMALL_LLAMA = {**LLAMA_1B, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 2, "vocab_size": 32000}
TINY_LLAMA = {
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 512,
}  # fmt: skip
SHORT = (
    "trainer.max_steps=6", "trainer.examples_per_step=8", "trainer.max_length=64",
    "data.mix.quickstart.validation_path=null", "data.mix.quickstart.max_rows=64", "data.val_rows=8",
)  # fmt: skip

FULL: Sizes = {
    "machine": {"product": 8192, "copied": 4 * GIB},
    "quickstart_cpu": {"dtypes": ("float32", "bfloat16"), "words": ("trainer.max_steps=40",)},
    "quickstart": {"dtypes": ("float32", "bfloat16"), "words": ("trainer.max_steps=40",)},
    "nf4": {"words": ("trainer.max_steps=40",), "stop": 20, "eval": ()},
    "qlora_8b": {
        "work": {"shape": "llama3-8b", "documents": 4, "length": 2048, "steps": 13},
        "warm": 3,
        "small": {"shape": "llama3-8b", "documents": 2, "length": 2048, "steps": 4},
        "words": (),
        "peak": (0.85, 1.10),
        "peak_4k": int(9.5 * GIB),
    },
    "flex_compile": {"groups": (2, 8), "tokens": (20, 100, 400)},
    "flex": {"groups": (2, 8), "tokens": (20, 100, 400)},
    "out_of_memory": {
        "work": {"shape": "llama3-1b", "documents": 4, "length": 2048, "steps": 3}, "words": (), "share": 0.6,
    },
    "lora_1_5b": {
        "words": ("--model", "qwen2.5-1.5b", "--examples", "64", "--steps", "10", "--warm", "3", "--rounds", "1",
                  "--threads", "4"),
    },
    "shared_prefix": {
        "works": {
            "prefix": {"shape": "llama3-8b", "documents": 100, "length": 2060, "shared": 2000, "steps": 3},
            "qwen3": {"shape": "qwen3-4b", "documents": 4, "length": 2048, "steps": 4},
        },
        "words": (),
        "peak": (0.85, 1.10),
    },
    "gpu_tests": {"marked": "gpu and not slow", "chosen": "", "workers": 4},
    "optimizers": {
        "kinds": ("adamw_8bit", "paged_adamw_8bit", "int8", "float16", "full", "adamw", "adafactor", "lion", "muon"),
        "words": ("trainer.max_steps=6",),
    },
    "offload": {"case": {"shape": LLAMA_1B, "tokens": 8192, "document": 2048}, "repeats": 5, "tolerance": 1e-2},
    "profile": {
        "work": {"shape": "llama3-8b", "documents": 4, "length": 2048, "steps": 5}, "profiled": 3, "words": (),
    },
    "tf32": {"layers": (2, 8, 32), "width": 512},
    "nccl": {"case": {"shape": SMALL_LLAMA}},
    "liger": {"work": {"shape": "llama3-1b", "documents": 4, "length": 2048, "steps": 10}, "warm": 3, "words": ()},
}  # fmt: skip
DRY: Sizes = {
    "machine": {"product": 64, "copied": 1 << 16},
    "quickstart_cpu": {"dtypes": ("float32",), "words": SHORT},
    "quickstart": {"dtypes": ("float32",), "words": SHORT},
    "nf4": {"words": SHORT, "stop": 2, "eval": ("eval.max_new_tokens=4",)},
    "qlora_8b": {
        "work": {"shape": "tiny-llama", "documents": 4, "length": 64, "steps": 2},
        "warm": 1,
        "small": {"shape": "tiny-llama", "documents": 2, "length": 64, "steps": 2},
        "words": ("speed.logits_chunk=32",),
        "peak": (0.4, 1.3),
        "peak_4k": GIB,
    },
    "flex_compile": {"groups": (2,), "tokens": (20, 140)},
    "flex": {"groups": (2,), "tokens": (20, 140)},
    "out_of_memory": {
        "work": {"shape": "deep-llama", "documents": 4, "length": 64, "steps": 2},
        "words": ("speed.logits_chunk=8",),
        "share": 0.7,
    },
    "lora_1_5b": {
        "words": ("--model", "tiny-qwen2", "--examples", "4", "--steps", "1", "--warm", "1", "--rounds", "1",
                  "--threads", "1"),
    },
    "shared_prefix": {
        "works": {
            "prefix": {"shape": "tiny-llama", "documents": 6, "length": 60, "shared": 50, "steps": 2},
            "qwen3": {"shape": "tiny-qwen3", "documents": 2, "length": 64, "steps": 2},
        },
        "words": ("speed.logits_chunk=32",),
        "peak": (0.4, 1.3),
    },
    "gpu_tests": {"marked": "gpu and not slow", "chosen": "one_call or keeps_its_digits", "workers": 0},
    "optimizers": {"kinds": ("paged_adamw_8bit", "int8", "float16"), "words": SHORT},
    "offload": {"case": {"shape": TINY_LLAMA, "tokens": 128, "document": 64}, "repeats": 2, "tolerance": 1e-6},
    "profile": {
        "work": {"shape": "tiny-llama", "documents": 2, "length": 64, "steps": 3},
        "profiled": 1,
        "words": ("speed.logits_chunk=32",),
    },
    "tf32": {"layers": (2,), "width": 128},
    "nccl": {"case": {"shape": TINY_LLAMA, "tokens": 128, "document": 64}},
    "liger": {},
}  # fmt: skip
SIZES = {"full": FULL, "dry": DRY}
