"""Build the embedded quickstart: a tiny base model that knows facts but does not answer, and data to tune it.

    python scripts/build_quickstart.py [--out DIR] [--threads N] [--check]

Writes ``model/``, ``train.jsonl``, ``heldout.jsonl`` and ``README.md``. Seeded: the same number of threads on the
same machine gives the same bytes. One build took 13 minutes on one thread of a busy machine; then 100% of the cloze
known, 0% of the held-out rows answered by the base, 99.3% after LoRA and 99.3% after NF4 QLoRA (14 s each on one
thread).

What did not work:

- Documents that mix many facts (an earlier trial): tuning could retrieve none of them.
- Documents with only a heading such as "Plural of wolf" over one to four statements (2,000 steps): 99.9% of the cloze
  known, but 85% of the held-out rows answered at best (width 192; 82% at width 128). Rows with an input failed most.
  What helped: cards (the relation on one line, the subject alone on the next), neutral lines before and between, fewer
  repetitions in a document, more steps, and two phrasings per training fact: 92-94% at any lr from 1e-3 to 3e-3.
- Long, hot tuning. In the trial 84 rows needed lr 5e-3 and 20 epochs; with 452 rows that memorizes the answers instead
  of learning to look them up (width 128, held-out: 73% after 10 epochs at 5e-3, 58% after 15 at 8e-3, 81% after 3 at
  2e-3).
- Sums and products of two numbers: cloze 100%, but 17 of the last 24 held-out errors. Doubles, halves and squares,
  which have one subject, took their place.
- Statements that begin with the bare subject ("Iran has its capital in Tehran."): 6 more, answered "Iran".
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from quickstart_check import Tuning, check, learning_rate
from quickstart_corpus import documents, instruction_rows
from quickstart_facts import END, PAD, QUICKSTART, facts, prompt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

CARD = """---
license: apache-2.0
language: en
library_name: transformers
---

# The quickstart of sft_cli

`model/` is a Llama-architecture base model of {parameters:,} parameters with a byte-level BPE of {vocabulary:,} tokens.
It was pretrained from random weights on a generated corpus that states {facts} simple true facts in many phrasings:
capitals, currencies, chemical symbols, opposites, plurals, number words and the like. It knows them and answers
nothing: it has never seen an instruction.

`train.jsonl` ({train} rows) asks for some of the facts in Alpaca shape, `heldout.jsonl` ({heldout} rows) for the
others. Tuning on the first teaches the form; the held-out answers must come from the base.

Made by `python scripts/build_quickstart.py`, which also says what did not work; `python scripts/quickstart_check.py`
measures it with plain transformers and PEFT. The model is a test piece: it knows nothing else and is of no other use.

Licence: Apache-2.0, model and data.
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of pretraining. Lengths in tokens."""

    vocabulary: int = 2048
    hidden: int = 192
    feed_forward: int = 384
    layers: int = 4
    heads: int = 6
    positions: int = 512
    steps: int = 3000
    rows: int = 16
    length: int = 128
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0


def train_tokenizer(recipe: Recipe) -> Tokenizer:
    """Train a byte-level BPE on the corpus and the prompts; words of the template become single tokens."""
    corpus = documents(recipe.seed)
    texts = [next(corpus) for _ in range(12 * len(facts()))]
    train, heldout = instruction_rows(recipe.seed)
    texts += [prompt(row) for row in train + heldout]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == recipe.vocabulary, tokenizer.get_vocab_size()
    return tokenizer


def token_rows(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches ``(rows, length + 1)`` of the endless stream of documents, each ended by the end-of-text token."""
    end = tokenizer.token_to_id(END)
    corpus = documents(recipe.seed + 1)
    size = recipe.rows * (recipe.length + 1)
    stream: list[int] = []
    while True:
        while len(stream) < size:
            for encoding in tokenizer.encode_batch_fast([next(corpus) for _ in range(64)]):
                stream += [*encoding.ids, end]
        yield torch.tensor(stream[:size]).view(recipe.rows, recipe.length + 1)
        del stream[:size]


def new_model(recipe: Recipe, end: int, pad: int) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings; linear sizes are multiples of 64 for the blocks of NF4."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    return LlamaForCausalLM(config)


def pretrain(tokenizer: Tokenizer, recipe: Recipe) -> LlamaForCausalLM:
    """Return the base model after next-token training on the corpus (bfloat16 autocast over float32 weights)."""
    model = new_model(recipe, tokenizer.token_to_id(END), tokenizer.token_to_id(PAD))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"pretrain: {size:,} parameters, {recipe.steps} steps of {recipe.rows}x{recipe.length} tokens", flush=True)
    started = time.perf_counter()
    batches = token_rows(tokenizer, recipe)
    for step in range(recipe.steps):
        ids = next(batches)
        optimizer.param_groups[0]["lr"] = learning_rate(step, recipe.lr, recipe.warmup, recipe.steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == recipe.steps - 1:
            print(f"  step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:6.1f} s", flush=True)
    return model.eval()


def save_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path, recipe: Recipe) -> None:
    """Write the files for AutoModelForCausalLM and AutoTokenizer, without chat template and start token."""
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files with mode 600
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        # Older transformers know this name, newer ones map it to TokenizersBackend; both read tokenizer.json unchanged.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": recipe.positions,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def build(out: Path, recipe: Recipe) -> None:
    """Build the model, the data and the README, and write them into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "model", ignore_errors=True)
    train, heldout = instruction_rows(recipe.seed)
    write_rows(out / "train.jsonl", train)
    write_rows(out / "heldout.jsonl", heldout)
    print(f"data: {len(facts())} facts, {len(train)} training rows, {len(heldout)} held-out rows", flush=True)
    tokenizer = train_tokenizer(recipe)
    model = pretrain(tokenizer, recipe)
    save_model(model, tokenizer, out / "model", recipe)
    card = CARD.format(
        parameters=model.num_parameters(),
        vocabulary=recipe.vocabulary,
        facts=len(facts()),
        train=len(train),
        heldout=len(heldout),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"written: {out}, {size / 1e6:.2f} MB", flush=True)
    assert size <= 8e6, "the quickstart must stay under 8 MB"


def main() -> None:
    """Parse the command line, build, and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=QUICKSTART, help="where to write")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the same number gives the same bytes")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="pretraining steps; fewer for a trial")
    parser.add_argument("--check", action="store_true", help="tune and measure afterwards, as quickstart_check.py does")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    build(arguments.out, Recipe(steps=arguments.steps))
    if arguments.check:
        check(arguments.out, Tuning())


if __name__ == "__main__":
    main()
