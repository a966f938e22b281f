"""A finished run with golden prompts, for the tests of ``sft export`` and ``sft verify``."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from sft_cli.chat.masks.parity import GoldenPrompt, save_golden_prompts
from sft_cli.run_dir import RunDir
from tests.export.families import save_tokenizer
from tests.merge.helpers import make_run, save_base

QUESTIONS = ("the capital of France", "it's 12345 o'clock", "one two three")


def save_run(folder: Path, **options) -> RunDir:
    """Write a base and a finished run on it, with a tokenizer and golden prompts; return the run."""
    tokenizer = folder / "tokenizer"
    save_tokenizer(tokenizer)
    base = save_base(folder / "base", tied=options.pop("tied", False))
    run = make_run(folder / "run", base, tokenizer, **options)
    shutil.copytree(tokenizer, run.tokenizer)
    loaded, plain = AutoTokenizer.from_pretrained(tokenizer), Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    golden = []
    for number, question in enumerate(QUESTIONS, 1):
        messages = [{"role": "user", "content": question}]
        ids = plain.encode(loaded.apply_chat_template(messages, tokenize=False), add_special_tokens=False).ids
        where = f"facts.jsonl:{number}"
        golden.append(GoldenPrompt(where, "facts", messages, None, ids, "2026-01-01T00:00:00", {}, [*ids, 40, 0]))
    save_golden_prompts(golden, run.golden)
    return run
