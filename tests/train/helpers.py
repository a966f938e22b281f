"""Examples, written by hand or random, and the predictions of a batch as its documents define them."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from hypothesis import strategies as st

from sft_cli.batching.collate import Batch
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.compose import compose
from sft_cli.data.prepared import TokenizedExample
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.prepare.prepare import prepare_data
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.retention import RetentionGuard
from sft_cli.train.monitoring.retention_probes import RetentionProbe, prepare_probes


def tokens(ids: Sequence[int], weights: Sequence[float]) -> TokenizedExample:
    return TokenizedExample(np.array(ids, np.int64), np.array(weights, np.float32))


def answering(prompt: Sequence[int], answer: Sequence[int]) -> TokenizedExample:
    """An example that trains its answer."""
    return tokens([*prompt, *answer], [0] * len(prompt) + [1] * len(answer))


@st.composite
def families(draw) -> list[TokenizedExample]:
    """Examples with common prefixes: copies and nested prefixes, any trained tokens."""
    examples: list[TokenizedExample] = []
    for _ in range(draw(st.integers(1, 7))):
        head: list[int] = []
        if examples and draw(st.booleans()):
            parent = draw(st.sampled_from(examples))
            head = parent.input_ids[: draw(st.integers(0, len(parent.input_ids)))].tolist()
        ids = head + draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
        trained = draw(st.lists(st.sampled_from([0, 0, 0, 0.5, 1]), min_size=len(ids), max_size=len(ids)))
        untrained = draw(st.integers(0, len(ids)))
        examples.append(tokens(ids, [0] * untrained + trained[untrained:]))
    return examples


Prediction = tuple[tuple[int, ...], tuple[int, ...], int, float]
"""The ids and the positions that a target is predicted from, the target, and its weight."""


def predictions(batch: Batch) -> list[Prediction]:
    """Return every target with the tokens that its position can attend to, from the segments of the row."""
    row = batch.documents
    bounds = row.cu_queries.tolist()
    ids, positions = batch.input_ids[0].tolist(), batch.positions[0].tolist()
    results = []
    columns = (batch.target_at, batch.targets, batch.target_weights)
    for at, target, weight in zip(*(column.tolist() for column in columns), strict=True):
        segment = next(s for s in range(len(row.lengths)) if bounds[s] <= at < bounds[s + 1])
        indices = [
            index for ancestor in row.ancestors(segment) for index in range(bounds[ancestor], bounds[ancestor + 1])
        ]
        indices += range(bounds[segment], at + 1)
        results.append((tuple(ids[p] for p in indices), tuple(positions[p] for p in indices), target, weight))
    return results


def expected(examples: Sequence[TokenizedExample]) -> list[Prediction]:
    """Return the expected result of ``predictions``: for each example, each trained id with all ids before it."""
    return [
        (tuple(example.input_ids[:t].tolist()), tuple(range(t)), int(example.input_ids[t]), float(example.weights[t]))
        for example in examples
        for t in range(1, len(example.input_ids))
        if example.weights[t]
    ]


class RetentionRun:
    """A run on the tiny model that is ready to train."""

    def __init__(self, directory, base, rows) -> None:
        self.directory, self.base, self.rows = directory, base, rows
        self.run = RunDir(directory / "run")
        self.run.path.mkdir()

    def config(self, *words: str):
        """Return the config of a run on the rows with these settings of trainer.retention."""
        return compose(
            [
                "data=local",
                f"data.mix.local.path={self.rows}",
                "data.val_fraction=0.2",
                f"model.path={self.base}",
                "template=plain",
                "trainer.max_length=256",
                "speed.tokens_per_micro_batch=256",
                "eval.max_new_tokens=8",
                *(f"trainer.retention.{word}" for word in words),
            ]
        )

    def file(self, name: str, lines: list[dict]) -> str:
        file = self.directory / name
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(file)

    def probes(self, *words: str) -> list[RetentionProbe]:
        config = self.config(*words)
        return prepare_probes(config, prepare_data(config).tokenizer_directory)

    def guard(self, *words: str) -> tuple[RetentionGuard, torch.nn.Module, list[RetentionProbe]]:
        from transformers import AutoModelForCausalLM

        config = self.config(*words)
        tokenizer = prepare_data(config).tokenizer_directory
        probes = prepare_probes(config, tokenizer)
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        loss_model, _ = build_loss_model(model, 64)
        accelerator = Accelerator(cpu=True)
        guard = RetentionGuard(config, self.run, loss_model, accelerator, load_tokenizer(str(tokenizer)), [2], probes)
        return guard, model, probes

    def record(self, step: int, values) -> None:
        """Record values as the loop's log does."""
        with self.run.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "retention": values}, allow_nan=False) + "\n")

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.run.metrics.read_text().splitlines()]
