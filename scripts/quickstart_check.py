"""Check the quickstart with plain transformers and PEFT: facts known by the base, and answers before and after tuning.

python scripts/quickstart_check.py [--out DIR] [--lr LR] [--epochs N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from quickstart_facts import END, QUICKSTART, facts, prompt
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

IGNORE = -100
Example = tuple[list[int], list[int]]
"""Token ids of a row, and its labels: the same ids, or IGNORE where there is no loss."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Settings of the instruction tuning, equal to those of the quickstart recipe."""

    rank: int = 16
    alpha: int = 32
    lr: float = 2e-3
    epochs: int = 2
    examples_per_step: int = 16
    warmup_ratio: float = 0.05
    seed: int = 0


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """Return the rate of a step: linear warm-up over ``warmup`` steps, cosine decay to zero at ``total``."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def generate(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int = 16
) -> list[str]:
    """Return greedy continuations up to the end-of-text token, in batches padded on the left."""
    texts: list[str] = []
    for at in range(0, len(prompts), 64):
        batch = tokenizer(list(prompts[at : at + 64]), return_tensors="pt", padding=True, padding_side="left")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens)
        texts += [tokenizer.decode(row).split(END)[0] for row in out[:, ids.shape[1] :]]
    return texts


def cloze_known(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of facts whose first statement the model completes with the answer and a full stop."""
    every = facts()
    openings = [relation.statements[0].split(" {a}")[0].format(s=subject) for relation, subject, _ in every]
    texts = generate(model, tokenizer, [END + opening for opening in openings])
    known = [text.startswith(f" {answer}.") for text, (_, _, answer) in zip(texts, every, strict=True)]
    return sum(known) / len(known)


def exact_match(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, str]], show: int = 0
) -> float:
    """Return the share of rows with exactly the expected continuation; print the first ``show`` others."""
    texts = generate(model, tokenizer, [prompt(row) for row in rows])
    wrong = [(row, text) for row, text in zip(rows, texts, strict=True) if text.strip() != row["output"]]
    for row, text in wrong[:show]:
        print(f"    {row['instruction']} {row['input']} -> {text!r}, expected {row['output']!r}")
    return 1 - len(wrong) / len(rows)


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, str]]) -> list[Example]:
    """Return examples with loss on the answer and the end-of-text token only."""
    examples = []
    for row in rows:
        asked = tokenizer(prompt(row))["input_ids"]
        answer = [*tokenizer(row["output"])["input_ids"], tokenizer.eos_token_id]
        examples.append((asked + answer, [IGNORE] * len(asked) + answer))
    return examples


def summed_loss(model: torch.nn.Module, examples: Sequence[Example], pad: int) -> tuple[Tensor, int]:
    """Return the summed cross-entropy in nats of the trained tokens of a padded batch, and their number."""
    length = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in examples])
    labels = torch.tensor([labels + [IGNORE] * (length - len(labels)) for _, labels in examples])
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")
    return loss, int((labels != IGNORE).sum())


def tune(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, str]], tuning: Tuning
) -> torch.nn.Module:
    """Train LoRA on every linear layer with a plain loop: AdamW, cosine decay, gradients clipped at norm 1."""
    torch.manual_seed(tuning.seed)
    lora = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=tuning.lr, weight_decay=0.0)
    examples = encode(tokenizer, rows)
    per_epoch = math.ceil(len(examples) / tuning.examples_per_step)
    total = per_epoch * tuning.epochs
    rng = random.Random(tuning.seed)
    for step in range(total):
        if step % per_epoch == 0:
            rng.shuffle(examples)
        at = step % per_epoch * tuning.examples_per_step
        loss, num_trained = summed_loss(model, examples[at : at + tuning.examples_per_step], tokenizer.pad_token_id)
        optimizer.param_groups[0]["lr"] = learning_rate(step, tuning.lr, int(tuning.warmup_ratio * total), total)
        (loss / num_trained).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 40 == 0 or step == total - 1:
            print(f"  step {step:4d}  loss {loss.item() / num_trained:.4f}", flush=True)
    return model.eval()


def open_base(folder: Path, nf4: bool) -> torch.nn.Module:
    """Return the base in float32, or with NF4 weights and double quantization."""
    if not nf4:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.float32)


def assert_raw_ids(tokenizer: PreTrainedTokenizerBase, folder: Path, texts: Sequence[str]) -> None:
    """Check that AutoTokenizer gives the ids of tokenizer.json, and that decoding restores the text."""
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids == raw.encode(text).ids, f"AutoTokenizer differs from tokenizer.json on {text!r}"
        assert tokenizer.decode(ids) == text, f"the tokenizer does not give back {text!r}"


def check(out: Path, tuning: Tuning, show: int = 0) -> None:
    """Print facts known and rows answered by the base, and rows answered after LoRA and after NF4 QLoRA."""
    folder = out / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, heldout = (
        [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train.jsonl", "heldout.jsonl")
    )
    texts = [prompt(row) + row["output"] + END for row in train + heldout]
    assert_raw_ids(tokenizer, folder, [*texts, "naïve café 東京 \t\r\n\U0001f600  x"])
    print(f"longest row: {max(len(tokenizer(text)['input_ids']) for text in texts)} tokens")
    base = open_base(folder, nf4=False).eval()
    print(f"cloze known: {cloze_known(base, tokenizer):.1%}")
    print(f"base held-out exact match: {exact_match(base, tokenizer, heldout):.1%}", flush=True)
    for name, nf4 in (("LoRA", False), ("QLoRA (NF4)", True)):
        model = open_base(folder, nf4)
        started = time.perf_counter()
        tuned = tune(model, tokenizer, train, tuning)
        seconds = time.perf_counter() - started
        score = exact_match(tuned, tokenizer, heldout, show)
        print(f"{name} held-out exact match: {score:.1%}, tuned in {seconds:.0f} s", flush=True)


def main() -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=QUICKSTART, help="folder of the quickstart")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--lr", type=float, default=Tuning().lr)
    parser.add_argument("--epochs", type=int, default=Tuning().epochs)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    check(arguments.out, Tuning(lr=arguments.lr, epochs=arguments.epochs), arguments.show)


if __name__ == "__main__":
    main()
