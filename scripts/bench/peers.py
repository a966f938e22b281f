"""The other tools of bench_prepare.py, TRL and plain `datasets`, and the measurement of all tools.

TRL and datasets are imported inside the functions, so that the worker processes of sft_cli, which import this file, do
not load them.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.data.prepared_writer import IGNORE_INDEX

MAX_LENGTH = 4096


@dataclass(frozen=True)
class Work:
    """Input of every tool.

    Attributes:
        rows: Conversations as OpenAI messages.
        tokenizer: Directory of the tokenizer.
        template: File of a chat template, or None for the tokenizer's own.
        scratch: An empty directory.
    """

    rows: list[list[dict[str, str]]]
    tokenizer: str
    template: str | None
    scratch: Path


@dataclass(frozen=True)
class Result:
    """Wall and CPU seconds, examples, tokens, and tokens that carry loss."""

    seconds: float
    processor: float
    examples: int
    tokens: int
    trained: int


def read_clocks() -> tuple[float, float]:
    """Return wall seconds and CPU seconds, including those of finished worker processes."""
    return time.perf_counter(), sum(os.times()[:4])


def elapsed(start: tuple[float, float]) -> tuple[float, float]:
    """Return wall and CPU seconds since ``start``."""
    clock, processor = read_clocks()
    return clock - start[0], processor - start[1]


def by_trl(work: Work, completion: bool) -> Result:
    """Prepare with SFTTrainer; its construction around a tiny model is not timed."""
    import datasets
    import transformers
    import trl

    tokenizer = _tokenizer(work)
    shape = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    args = trl.SFTConfig(
        output_dir=str(work.scratch / "trainer"),
        max_length=MAX_LENGTH,
        assistant_only_loss=not completion,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    rows = [{"prompt": row[:-1], "completion": row[-1:]} if completion else {"messages": row} for row in work.rows]
    dataset = datasets.Dataset.from_list(rows)
    trainer = trl.SFTTrainer(
        transformers.LlamaForCausalLM(shape), args, train_dataset=dataset.select(range(2)), processing_class=tokenizer
    )
    start = read_clocks()
    done: Any = trainer._prepare_dataset(dataset, tokenizer, args, False, None, "train")
    spent = elapsed(start)
    return Result(*spent, *counted(done["labels"]))


def by_datasets(work: Work) -> Result:
    """Prepare with one `map` of transformers' `apply_chat_template` and its assistant mask."""
    import datasets
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = _tokenizer(work)
    dataset = datasets.Dataset.from_list([{"messages": row} for row in work.rows])
    template = get_training_chat_template(tokenizer)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        made = tokenizer.apply_chat_template(
            row["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        labels = zip(made["input_ids"], made["assistant_masks"], strict=True)
        return {"input_ids": made["input_ids"], "labels": [id if mask else IGNORE_INDEX for id, mask in labels]}

    start = read_clocks()
    done = dataset.map(encode, remove_columns="messages")
    spent = elapsed(start)
    return Result(*spent, *counted(done["labels"]))


def _tokenizer(work: Work) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(work.tokenizer)
    if work.template is not None:
        tokenizer.chat_template = Path(work.template).read_text(encoding="utf-8")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def counted(labels: Any) -> tuple[int, int, int]:
    """Return the numbers of examples, tokens and trained tokens."""
    examples = tokens = trained = 0
    for row in labels:
        examples, tokens, trained = examples + 1, tokens + len(row), trained + len(row) - row.count(IGNORE_INDEX)
    return examples, tokens, trained
