"""A tiny real base model with a tokenizer, rows, and runs of the real command."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.train.helpers import RetentionRun
from tests.train.runs import Runs


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A random Llama, its sizes multiples of 64, with a byte-level tokenizer: 256 bytes, <pad>, <s>, </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """24 rows of very different lengths, so that a mean of means would give another loss."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    answers = ["yes", "a long answer " * 7, "no no", "b" * 40]
    lines = [{"prompt": f"question {i}" + " more" * (i % 5), "completion": answers[i % 4] + str(i)} for i in range(24)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def runs(base, rows, tmp_path, monkeypatch) -> Runs:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return Runs(tmp_path, base, rows)


@pytest.fixture
def metrics():
    """Reads the lines of metrics.jsonl of one kind: those of steps, of evaluations, or of retention probes."""

    def read(directory, *, eval: bool = False, retention: bool = False) -> list[dict]:
        lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
        return [line for line in lines if ("eval" in line, "retention" in line) == (eval, retention)]

    return read


@pytest.fixture
def stop_during_step(monkeypatch):
    """Send this process SIGTERM while a step, counted from 1, is computed."""
    from sft_cli.train import loop

    def arrange(step: int) -> None:
        original = loop.train_step

        def interrupted(run, parts, number, feed):
            if number == step - 1:
                signal.raise_signal(signal.SIGTERM)
            return original(run, parts, number, feed)

        monkeypatch.setattr(loop, "train_step", interrupted)

    return arrange


@pytest.fixture
def retention_run(tmp_path, base, rows, monkeypatch) -> RetentionRun:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return RetentionRun(tmp_path, base, rows)


@pytest.fixture
def questions(retention_run) -> str:
    """A file of four questions."""
    return retention_run.file(
        "asked.jsonl", [{"prompt": f"say {i}", "completion": "word " * (i + 1)} for i in range(4)]
    )
