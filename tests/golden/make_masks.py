"""Makes the golden masks: ``python tests/golden/make_masks.py`` from the repository's root.

masks/tokenizer/     a byte-level tokenizer of a few merges and the special tokens of several families, made here
masks/templates/     chat templates of our own, in the manner of real ones; the others are those of configs/template
masks/<template>.json, and masks/material/<tokenizer>.json where the real tokenizers are next to the repository
masks/contents/<template>.json   the same with train_on: contents

Each file holds the conversations of CASES: what was trained and what was not as text, then the ids and the labels
(-100: no loss). Read the diff before you commit one.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Conversation, Example, Message

HERE = Path(__file__).resolve().parent / "masks"
MATERIAL = HERE.parents[3] / "shared" / "material" / "tokenizers"
MERGES = (
    "\n\n",
    "  ",
    "He",
    "ll",
    "Hell",
    "Hello",
    " t",
    "he",
    " the",
    "in",
    "ing",
    "an",
    "as",
    "is",
    "er",
    "us",
    "user",
)
SPECIAL = (
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
TEMPLATES = ("alpaca", "chatml", "llama2", "plain", "vicuna", "qwen3_like", "llama3_like", "mistral_like", "phi3_like")
CONTENTS = ("alpaca", "chatml", "llama3_like", "mistral_like", "qwen3_like")
REAL = ("llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3")
OPENING = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
CASES: dict[str, list[dict[str, Any]]] = {
    "two turns": [
        *OPENING,
        {"role": "user", "content": "is <|im_end|> a token?"},
        {"role": "assistant", "content": "Yes </s>"},
    ],
    "system": [{"role": "system", "content": "Be brief."}, *OPENING],
    "whitespace and accents": [
        {"role": "user", "content": "Say it"},
        {"role": "assistant", "content": "\n\n  cafe\u0301 \U0001f600\n"},
    ],
    "one turn switched off": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "one", "weight": 0},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "two"},
    ],
    "reasoning": [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "<think>\nhard\n</think>\n\n4"},
    ],
}


def build_tokenizer(directory: Path) -> None:
    """Write the small tokenizer: one token per byte, a few merges, special tokens."""
    byte = {
        text: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
        for text in MERGES
    }
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    known, merges = set(vocabulary), []
    for text in MERGES:
        word = byte[text]
        cut = next(i for i in range(len(word) - 1, 0, -1) if word[:i] in known and word[i:] in known)
        merges.append((word[:cut], word[cut:]))
        vocabulary.append(word)
        known.add(word)
    backend = Tokenizer(models.BPE({word: id for id, word in enumerate(vocabulary)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def builder(tokenizer: ChatTokenizer, template: str, **rules: Any) -> ExampleBuilder:
    """An example builder with a template of configs/template, one of ours, or (``auto``) the tokenizer's own."""
    own = HERE / "templates" / f"{template}.jinja"
    config = TemplateConfig(path=str(own)) if own.exists() else TemplateConfig(name=template)
    return ExampleBuilder(tokenizer, load_template(config, tokenizer), DataConfig(**rules), 4096)


def conversation(turns: list[dict[str, Any]]) -> Conversation:
    """The turns of a case as they travel."""
    messages = tuple(Message(turn["role"], turn["content"], turn.get("weight", 1.0)) for turn in turns)
    return Conversation(messages, "golden.jsonl:1", "golden")


def written(tokenizer: ChatTokenizer, example: Example) -> dict[str, Any]:
    """An example for people (pieces of text, trained or not) and for machines (ids, labels)."""
    tokens = list(zip(example.input_ids, example.weights, strict=True))
    pieces = [
        ["trained" if trained else "context", tokenizer.decode_batch([[id for id, _ in run]])[0]]
        for trained, run in groupby(tokens, key=lambda token: token[1] > 0)
    ]
    labels = [id if weight else -100 for id, weight in tokens]
    return {"pieces": pieces, "input_ids": list(example.input_ids), "labels": labels}


def case(tokenizer: ChatTokenizer, template: str, name: str, rules: dict[str, Any]) -> dict[str, Any]:
    """The examples of a conversation, or why it is rejected."""
    outcome = builder(tokenizer, template, **rules).build([conversation(CASES[name])])[0]
    found = {"conversation": CASES[name]}
    if outcome.problem is not None:
        return {**found, "refused": outcome.problem.problem}
    return {**found, "examples": [written(tokenizer, example) for example in outcome.examples]}


def goldens() -> dict[Path, tuple[Path, str, dict[str, Any]]]:
    """Every golden file and the tokenizer directory, template and rules it is made with."""
    small = {HERE / f"{template}.json": (HERE / "tokenizer", template, {}) for template in TEMPLATES}
    rules = {"train_on": TrainOn.contents}
    asked = {HERE / "contents" / f"{template}.json": (HERE / "tokenizer", template, rules) for template in CONTENTS}
    return small | asked | {HERE / "material" / f"{name}.json": (MATERIAL / name, "auto", {}) for name in REAL}


def content(directory: Path, template: str, rules: dict[str, Any]) -> str:
    """The text of a golden file: one line per list of numbers or of text."""
    tokenizer = load_tokenizer(str(directory))
    value = {name: case(tokenizer, template, name, rules) for name in CASES}
    return _dumps(value, 0) + "\n"


def _dumps(value: Any, depth: int) -> str:
    """Indented JSON in which a list of plain values is on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or (
        isinstance(value, list) and not any(isinstance(v, dict | list) for v in value)
    ):
        return flat
    if len(flat) < 100:
        return flat
    pad = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {_dumps(item, depth + 1)}" for key, item in value.items()]
        return "{" + pad + f",{pad}".join(inner) + pad[:-1] + "}"
    return "[" + pad + f",{pad}".join(_dumps(item, depth + 1) for item in value) + pad[:-1] + "]"


def main() -> None:
    """Write every golden file whose tokenizer is there."""
    build_tokenizer(HERE / "tokenizer")
    for file, (directory, template, rules) in goldens().items():
        if not directory.is_dir():
            print(f"skipped {file.name}: {directory} is absent", file=sys.stderr)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content(directory, template, rules), encoding="utf-8")
        print(f"{file.relative_to(HERE)}  {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
