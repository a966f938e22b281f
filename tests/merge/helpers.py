"""Make bases and finished runs for the tests of ``sft merge``, and compare the models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig

from sft_cli.cli import execute
from sft_cli.config.compose import dump_config
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind, TrainStopToken
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.config.schema.trainer import Device, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.merge.agreement import Agreement, compare_logits, read_comparison_rows, trained_logits
from sft_cli.model.adapter.add import add_adapter, silence_peft_warnings
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.load import load_model
from sft_cli.run_dir import RunDir

CPU = torch.device("cpu")


PLAIN = QuantConfig()


NF4 = QuantConfig(kind=QuantKind.nf4)


STOP = "<|end|>"


TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}assistant: "


PROMPTS = ["one two three", "the capital of France", "to be or not", "a b c d"]


NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def save_base(directory: Path, dtype=torch.float32, *, kind=LlamaConfig, tied=False, layers=2) -> Path:
    """Save a random model and return its directory; every dimension of its linear layers is a multiple of 64."""
    torch.manual_seed(0)
    config = kind(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=7,
        pad_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.generation_config.update(do_sample=True, temperature=0.6, repetition_penalty=1.3, pad_token_id=0)
    model.save_pretrained(directory)
    return directory


def make_run(
    directory: Path,
    base: Path,
    tokenizer: Path,
    *,
    quant=PLAIN,
    dtype=torch.float32,
    stop=TrainStopToken.never,
    adapter=None,
):
    """Write the directory of a finished run and return it.

    Without `adapter`, a LoRA adapter has random weights; otherwise noise is added to the adapter's initial weights.
    """
    run = RunDir(directory)
    directory.mkdir()
    config = Config(
        run_name="tiny",
        model=ModelConfig(path=str(base)),
        data=DataConfig(mix={"facts": SourceConfig(path="/home/someone/facts.jsonl", licence="CC0-1.0")}),
        adapter=AdapterConfig(rank=8, train_stop_token=stop) if adapter is None else adapter,
        quant=quant,
        trainer=TrainerConfig(device=Device.cpu, lr=2e-4, epochs=1, examples_per_step=64),
    )
    run.config.write_text(dump_config(config))
    model = load_model(config.model, quant, full=False, device=CPU, compute_dtype=dtype)
    rows = [{"input_ids": list(range(3 + i, 60 + i))} for i in range(12)]
    adapted = add_adapter(model, config.adapter, [0], seed=0, rows=rows, source=config.model).model
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = (
                noise * 0.1
                if adapter is None
                else parameter.data + noise * (0.3 if adapter.kind is AdapterKind.vera else 0.03)
            )
    save_adapter(adapted, run.adapter)
    for file in tokenizer.iterdir():
        shutil.copy(file, run.adapter / file.name)
    generation = {"eos_token_id": [0, 5], "do_sample": False}
    (run.adapter / "generation_config.json").write_text(json.dumps(generation))
    ids = torch.randint(1, 320, (5, 12), generator=generator).tolist()
    probes = [
        {"where": f"facts.jsonl:{i}", "input_ids": row, "labels": [-100] * 5 + row[5:]} for i, row in enumerate(ids)
    ]
    run.probes.write_text(json.dumps(probes))
    counts = {"examples": 5, "tokens": 60, "trained_tokens": 35}
    facts = {"format": "alpaca", "licence": "CC0-1.0", "used": 5}
    manifest = {"fingerprint": "f" * 64, "stop_tokens": [STOP], "sources": {"facts": facts}}
    run.manifest.write_text(json.dumps({**manifest, "splits": {"train": counts, "validation": counts}}))
    versions = {
        "sft_cli": "0.1",
        "python": "3.11",
        "packages": {"torch": "2.13", "bitsandbytes": None},
        "device": "cpu",
    }
    run.environment.write_text(json.dumps({**versions, "dtype": NAMES[dtype]}))
    run.metrics.write_text(json.dumps({"step": 3, "epoch": 1.0, "loss": 0.5, "trained_tokens": 35}) + "\n")
    return run


def open_adapter(run: RunDir, base: Path, quant=PLAIN, dtype=torch.float32) -> PeftModel:
    """Return the adapter of a run on a newly loaded base."""
    model = load_model(ModelConfig(path=str(base)), quant, full=False, device=CPU, compute_dtype=dtype)
    with silence_peft_warnings():
        return PeftModel.from_pretrained(model, str(run.adapter))


def compare(run: RunDir, first, second) -> Agreement:
    """Compare the logits of two models on the rows of a run."""
    probes = read_comparison_rows(run.probes)
    return compare_logits(trained_logits(first, probes), trained_logits(second, probes))


def open_merged(out: Path):
    """Open a merged model with plain transformers."""
    return AutoModelForCausalLM.from_pretrained(out)


def merge_error(words: list[str]) -> str:
    """Run ``sft merge``, which must raise, and return its message."""
    with pytest.raises(SftError) as error:
        execute(["merge", *words])
    return str(error.value)
