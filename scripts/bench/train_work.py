"""Common input of all trainers in bench_train.py: random models of real shapes, rows of token ids, and the floor."""

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama4m": {
        "family": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 8192, "tie_word_embeddings": False,
    },
    "llama58m": {
        "family": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "bigvocab": {
        "family": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "family": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "family": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "llama3-1b": {
        "family": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "family": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "llama3-8b": {
        "family": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 8192,
}  # fmt: skip
SHAPES |= {
    f"tiny-{family}": {"family": family, **TINY, "tie_word_embeddings": False} for family in ("llama", "qwen2", "qwen3")
}
SHAPES["deep-llama"] = {**SHAPES["tiny-llama"], "num_hidden_layers": 6}
IDS = 8000
"""Rows use only ids below this one, which all models have."""


@dataclass(frozen=True)
class Result:
    """Result of one run of a trainer.

    Attributes:
        seconds: Seconds of each timed step.
        tokens: Tokens of each timed step, without padding.
        trained: Trained tokens of each timed step.
        losses: Losses of all steps, including the first ones.
        peak: Peak resident bytes of the process, or peak allocated bytes on the CUDA device.
        reserved: Bytes reserved on the CUDA device; 0 on a CPU.
        start: Seconds from the start of the process to the end of its first step.
    """

    seconds: list[float]
    tokens: list[int]
    trained: list[int]
    losses: list[float]
    peak: int
    reserved: int
    start: float

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        file.write_text(json.dumps(asdict(self)))


def model_config(shape: str) -> Any:
    """Return the configuration of a model of transformers."""
    from transformers import AutoConfig

    values = dict(SHAPES[shape])
    return AutoConfig.for_model(
        values.pop("family"), **values, max_position_embeddings=16384, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )


def make_model(shape: str, directory: Path, dtype: str, device: str = "cpu") -> None:
    """Save a model with random weights (seed 0), made on ``device``, as ``save_pretrained`` does."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(model_config(shape), dtype=getattr(torch, dtype))
    model.save_pretrained(directory)


def make_tokenizer(directory: Path) -> None:
    """Save a tokenizer that has the ids of the rows; it encodes no text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"w{place}" for place in range(len(names), IDS)]
    inner = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(directory)


def training_words(rows: Path, model: Path, tokenizer: Path, run: Path) -> list[str]:
    """Return the words of `sft train` that every comparison has: LoRA of these rows at a constant rate."""
    return [
        "data=local", f"data.mix.local.path={rows}", f"model.path={model}", f"model.tokenizer={tokenizer}",
        "template=plain", "adapter=lora", f"run_dir={run}", "trainer.schedule=constant", "trainer.warmup_ratio=0",
        "trainer.epochs=1", "clean.steps=[]",
    ]  # fmt: skip


def make_adapter(model: Path, directory: Path) -> None:
    """Save the initial LoRA adapter of all trainers (seed 0), since equal curves need equal starts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    adapted.save_pretrained(str(directory), save_embedding_layers=False)


def make_rows(kind: str, count: int, seed: int = 7) -> list[tuple[list[int], int]]:
    """Return rows as (ids, tokens of the prompt); all tokens after the prompt are trained.

    Lengths of ``alpaca`` are log-normal with median 120 (as GSM8K and CodeAlpaca have them), 8% to 85% of a row are
    answer, all start with the same 33 tokens. ``equal`` are rows of 150 tokens; ``system`` has 241 more shared tokens;
    ``long`` has rows of 1,000 to 4,000 tokens; ``unrolled`` are conversations of 5 turns, one row per answer, each with
    all turns before it.
    """
    rng = random.Random(seed)
    weights = [1 / (place + 3) for place in range(IDS - 10)]

    def words(number: int) -> list[int]:
        return rng.choices(range(10, IDS), weights=weights, k=number)

    preamble = words(274 if kind == "system" else 33)
    rows: list[tuple[list[int], int]] = []
    while len(rows) < count:
        if kind == "unrolled":
            history = list(preamble)
            for _ in range(5):
                history += words(rng.randint(15, 60))
                answer = [*words(rng.randint(20, 120)), 2]
                rows.append((history + answer, len(history)))
                history += answer
            continue
        if kind == "long":
            length = rng.randint(1000, 4000)
        elif kind == "equal":
            length = 150
        else:
            length = int(min(1000, max(40, rng.lognormvariate(math.log(120), 0.65))))
        answer = max(2, int(length * min(0.85, max(0.08, rng.betavariate(3.2, 4.8)))))
        question = max(2, length - answer - 33)
        rows.append((preamble + words(question) + words(answer) + [2], len(preamble) + question))
    return rows[:count]


def write_rows(rows: list[tuple[list[int], int]], file: Path) -> None:
    """Write rows as JSON lines with ``input_ids`` and ``labels``."""
    with file.open("w") as out:
        for ids, prompt in rows:
            out.write(json.dumps({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}) + "\n")


def floor_flops(shape: str, steps: list[list[tuple[int, int]]]) -> float:
    """Return the operations that LoRA on frozen weights requires, for steps of (tokens, trained tokens) per row.

    Per token 2 per parameter of the blocks forward and 2 for the gradient of the inputs; attention within documents
    only, half of the square, forward once and backward 2.5 times; the head at trained positions, forward and backward.
    The adapter itself (below 2%) is not counted, and nothing is recomputed.
    """
    values = SHAPES[shape]
    width, layers, heads = values["hidden_size"], values["num_hidden_layers"], values["num_attention_heads"]
    keys = width * values["num_key_value_heads"] // heads
    block = layers * (2 * width * width + 2 * width * keys + 3 * width * values["intermediate_size"])
    rows = [row for step in steps for row in step]
    tokens, trained = sum(length for length, _ in rows), sum(answer for _, answer in rows)
    attention = sum(length * length / 2 * 4 * width * layers for length, _ in rows)
    return 4.0 * block * tokens + 3.5 * attention + 4.0 * width * values["vocab_size"] * trained


def product_rate(dtype: str, device: str, shape: str, seconds: float = 1.0) -> float:
    """Return the operations per second of one matrix product of training size, measured now.

    On CUDA it has the widths of the model.
    """
    import time

    import torch

    from sft_cli.model.speed.onednn import enable_onednn_float32

    if device == "cpu":
        enable_onednn_float32()
    widths = SHAPES[shape]["hidden_size"], SHAPES[shape]["intermediate_size"]
    size = (8192, *widths) if device == "cuda" else (1200, 512, 1408)
    left = torch.randn(size[0], size[1], device=device, dtype=getattr(torch, dtype))
    right = torch.randn(size[1], size[2], device=device, dtype=getattr(torch, dtype))

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        left @ right
    wait()
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(10):
            left @ right
        wait()
        done += 10
    return 2.0 * size[0] * size[1] * size[2] * done / (time.perf_counter() - begin)
