"""A byte-level tokenizer, splits written by hand, and tiny models."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config

from sft_cli.batching.collate import Batch, collate
from sft_cli.config.compose import dump_config
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.schema.config import Config, EvalConfig, ModelConfig, TemplateConfig
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.config.schema.speed import SpeedConfig
from sft_cli.config.schema.trainer import Device, Reduction, TrainerConfig
from sft_cli.data.prepared import Split
from sft_cli.data.prepared_writer import SplitWriter, example_table
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model
from sft_cli.prepare.prepare import prepare_data
from sft_cli.types import Example

VOCABULARY = 320
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": lambda **sizes: LlamaConfig(**{**SIZES, **sizes}),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "mistral-window": lambda: MistralConfig(**SIZES, sliding_window=4),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=128),
}


def tiny(family: str = "llama", **sizes: int) -> PreTrainedModel:
    """Return a float32 model of the family, always with the same weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**sizes))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def write_split(directory: Path, examples: Sequence[Example]) -> Split:
    """Write examples as ``prepare_data`` does and return the opened split."""
    directory.mkdir(parents=True)
    weighted = any(weight not in (0, 1) for example in examples for weight in example.weights)
    writer = SplitWriter(directory, "validation", weighted)
    writer.write(example_table(examples))
    writer.close()
    return Split(directory / "validation")


def write_tokenizer(directory: Path) -> None:
    """Write a byte-level BPE tokenizer: ``<pad>`` 0, ``<s>`` 1, ``</s>`` 2, then bytes and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["### Instruction:\nWhat is the capital of France?\n\n### Response:\n"] * 9, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def build():
    return tiny


@pytest.fixture
def split_of(tmp_path):
    """Return a function from examples to their split."""
    number = count()
    return lambda examples: write_split(tmp_path / f"split-{next(number)}", examples)


QUESTIONS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana", "Italy": "Rome"}


def write_rows(file: Path, countries: Sequence[str]) -> str:
    """Write Alpaca rows about the capitals of these countries."""
    rows = [{"instruction": f"What is the capital of {name}?", "output": QUESTIONS[name]} for name in countries]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory):
    """Return a base model, rows, and the runs ``lora``, ``nf4`` and ``full`` that memorized them; see ``write_run``."""
    root = tmp_path_factory.mktemp("runs_dir")
    write_tokenizer(root / "base")
    tiny(num_key_value_heads=4).save_pretrained(root / "base")
    rows = write_rows(root / "rows.jsonl", list(QUESTIONS))
    config = Config(
        model=ModelConfig(path=str(root / "base")),
        data=DataConfig(mix={"capitals": SourceConfig(path=rows, validation_path=rows)}),
        clean=CleanConfig(steps=[]),  # the rows are trained on and held out on purpose
        template=TemplateConfig(name="alpaca"),
        trainer=TrainerConfig(device=Device.cpu, max_length=128),
        speed=SpeedConfig(tokens_per_micro_batch=512),
        eval=EvalConfig(max_new_tokens=16, batch_size=3),
    )
    kinds = {
        "lora": config,
        "nf4": replace(config, quant=QuantConfig(kind=QuantKind.nf4)),
        "full": replace(config, adapter=AdapterConfig(kind=AdapterKind.none)),
    }
    for kind, own in kinds.items():
        write_run(root / kind, replace(own, prepared_dir=str(root / f"prepared-{kind}")))
    return root


def write_run(directory: Path, config: Config) -> None:
    """Write the run directory of ``sft train`` for a model that memorized its rows."""
    directory.mkdir()
    prepared = prepare_data(config)
    full = config.adapter.kind is AdapterKind.none
    cpu = torch.device("cpu")
    model = load_model(config.model, config.quant, full=full, device=cpu, compute_dtype=torch.float32)
    trained = model if full else add_adapter(model, config.adapter, [2], seed=0).model
    memorize(trained, prepared.train, steps=60, lr=3e-3 if full else 1e-2)
    result = directory / ("model" if full else "adapter")
    trained.save_pretrained(str(result), **({} if full else {"save_embedding_layers": False}))
    for file in prepared.tokenizer_directory.iterdir():
        shutil.copy(file, result / file.name)
    shutil.copytree(prepared.tokenizer_directory, directory / "tokenizer")
    (result / "generation_config.json").write_text('{"eos_token_id": [2]}')
    (directory / "config.yaml").write_text(dump_config(config))
    (directory / "manifest.json").write_text(json.dumps(prepared.manifest))
    known = {
        "prepared_dir": str(prepared.directory),
        "fingerprint": prepared.manifest["fingerprint"],
        "content": prepared.manifest["content"],
    }
    (directory / "data.json").write_text(json.dumps(known))


def memorize(model: torch.nn.Module, split: Split, *, steps: int, lr: float) -> None:
    """Train with Adam on all rows at once until the model has memorized them."""
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=1024)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    batch = collate([split.tokens(i) for i in range(len(split))], Reduction.token)
    for _ in range(steps):
        loss = loss_model(*(getattr(batch, name) for name in Batch.__dataclass_fields__))["loss"] / len(batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))


@pytest.fixture
def run_of(runs_dir, tmp_path):
    """Return a function that copies a run: ``lora``, ``nf4`` or ``full``."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(runs_dir / kind, tmp_path / kind))

    return copy
