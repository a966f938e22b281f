"""Merging: the written model says what the adapter said, opens with plain transformers, and nothing half-made stays."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rounding import ROUNDING
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    pipeline,
)

from sft_cli.chat.template import server
from sft_cli.cli import execute
from sft_cli.config.compose import dump_config, read_config
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init, QuantConfig, QuantKind, TrainStopToken
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.config.schema.trainer import Device, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.merge.agreement import (
    MAX_KL,
    Agreement,
    ComparisonRow,
    compare_logits,
    read_comparison_rows,
    trained_logits,
)
from sft_cli.merge.card import describe_adapter
from sft_cli.model.adapter.add import add_adapter, silence_peft_warnings
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.load import load_model
from sft_cli.model.quant import causal_lm, evaluation_mode
from sft_cli.run_dir import RunDir

CPU = torch.device("cpu")
PLAIN = QuantConfig()
NF4 = QuantConfig(kind=QuantKind.nf4)
STOP = "<|end|>"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}assistant: "
PROMPTS = ["one two three", "the capital of France", "to be or not", "a b c d"]
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A byte-level BPE tokenizer with a stop token and a chat template, as prepare leaves it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=[STOP], show_progress=False)
    backend.train_from_iterator(PROMPTS * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=STOP)
    fast.chat_template = TEMPLATE
    directory = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(directory)
    return directory


def save_base(directory: Path, dtype=torch.float32, *, kind=LlamaConfig, tied=False, layers=2) -> Path:
    """A random model in a type; every linear dimension is a multiple of 64."""
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
    """A finished run as training leaves it, with an adapter of random weights, or moved a little from its beginning."""
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
    """The adapter on a base that is loaded anew."""
    model = load_model(ModelConfig(path=str(base)), quant, full=False, device=CPU, compute_dtype=dtype)
    with silence_peft_warnings():
        return PeftModel.from_pretrained(model, str(run.adapter))


def compare(run: RunDir, first, second) -> Agreement:
    probes = read_comparison_rows(run.probes)
    return compare_logits(trained_logits(first, probes), trained_logits(second, probes))


def merged(out: Path):
    return AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.every_change("torch.float32-1e-10-untied-never", "torch.bfloat16-0.02-tied-always")
@pytest.mark.parametrize("stop", [TrainStopToken.never, TrainStopToken.always])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-10), (torch.bfloat16, 2e-3 * ROUNDING)], ids=str)
def test_merged_model_agrees_with_the_adapter(tmp_path, tokenizer, dtype, limit, tied, stop):
    """A right merge lies below the limit; the adapter itself is 100 times as far from the base."""
    base = save_base(tmp_path / "base", dtype, tied=tied)
    run = make_run(tmp_path / "run", base, tokenizer, stop=stop)

    execute(["merge", str(run.path)])

    model, adapted = merged(run.path / "merged"), open_adapter(run, base, dtype=dtype)
    assert model.dtype == dtype
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    found = compare(run, adapted, model)
    assert found.kl < limit
    assert found.positions == 5 * 7
    assert compare(run, AutoModelForCausalLM.from_pretrained(base), model).kl > 100 * limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_are_summed_in_float32_and_rounded_once(tmp_path, tokenizer, dtype):
    base = save_base(tmp_path / "base", dtype)
    run = make_run(tmp_path / "run", base, tokenizer, stop=TrainStopToken.always)

    execute(["merge", str(run.path), "--out", f"{tmp_path}/new/place"])

    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "new/place/model.safetensors")
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    changed = 0
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.float().clone()
        if f"{prefix}.lora_A.weight" in adapter:
            expected = expected + adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"] * (32 / 8)
        if f"{prefix}.token_adapter.trainable_tokens_delta" in adapter:
            expected[0] = adapter[f"{prefix}.token_adapter.trainable_tokens_delta"][0]
        assert torch.equal(after[name], expected.to(dtype)), name
        changed += not torch.equal(after[name], weight)
    assert changed == 2 * 7 + 2
    assert after.keys() == before.keys()


def test_plain_transformers_generates_the_adapters_text(tmp_path, tokenizer):
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, stop=TrainStopToken.always)
    execute(["merge", str(run.path), "--out", f"{tmp_path}/merged"])

    model, speaker = merged(tmp_path / "merged"), AutoTokenizer.from_pretrained(tmp_path / "merged")
    adapted = open_adapter(run, base)
    # A setting that is left open is filled from the model's own, here the base's penalty for repetition.
    causal_lm(adapted).generation_config = model.generation_config
    texts = []
    for prompt in PROMPTS:
        inputs = speaker.apply_chat_template([{"role": "user", "content": prompt}], return_tensors="pt")
        ours = model.generate(**inputs, max_new_tokens=24)
        with evaluation_mode(adapted):
            theirs = causal_lm(adapted).generate(**inputs, max_new_tokens=24)
        assert speaker.decode(ours[0]) == speaker.decode(theirs[0])
        texts.append(speaker.decode(ours[0][inputs["input_ids"].shape[1] :]))

    assert speaker.decode(inputs["input_ids"][0]) == "user: a b c d<|end|>assistant: "
    assert len(set(texts)) == len(PROMPTS)
    answer = pipeline("text-generation", str(tmp_path / "merged"))([{"role": "user", "content": PROMPTS[-1]}])
    assert answer[0]["generated_text"][-1]["content"].startswith(texts[-1])
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id, settings.do_sample) == ([0, 5], 0, False)
    assert model.config.eos_token_id == [0, 5], "the base's own was 7"
    assert json.loads((tmp_path / "merged/generation_config.json").read_text()).keys() == {
        "do_sample",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
    }


def test_merged_directory_is_complete_without_local_paths(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)

    execute(["merge", str(run.path)])

    files = {file.name: file for file in (run.path / "merged").iterdir()}
    assert files.keys() == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert files["chat_template.jinja"].read_text() == TEMPLATE
    for name, file in files.items():
        assert str(tmp_path).encode() not in file.read_bytes(), name
        assert b"someone" not in file.read_bytes(), name
    assert [path.name for path in run.path.glob(".*")] == []


@pytest.mark.every_change("nf4-torch.float32-1e-10")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-10), (torch.bfloat16, 5e-3)], ids=str)
@pytest.mark.parametrize("kind", [QuantKind.nf4, QuantKind.int8])
def test_merging_into_the_dequantized_base_keeps_the_logits(tmp_path, tokenizer, kind, dtype, limit, capsys):
    """Training computes with the very weights that are merged."""
    quant = QuantConfig(kind=kind)
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=quant, dtype=dtype, stop=TrainStopToken.always)

    execute(["merge", str(run.path), "--into", "dequantized"])

    model = merged(run.path / "merged")
    assert model.dtype == dtype
    assert "quantization_config" not in vars(model.config)
    shift = compare(run, open_adapter(run, base, quant, dtype), model)
    assert shift.kl < limit
    assert f"as trained ({kind.value}) and merged: quantization shift" in capsys.readouterr().out


def test_merging_a_4bit_run_into_the_original_base_prints_the_shift(tmp_path, tokenizer, capsys):
    base = save_base(tmp_path / "base", torch.bfloat16)
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4)

    execute(["merge", str(run.path)])

    model = merged(run.path / "merged")
    assert model.dtype == torch.bfloat16
    assert compare(run, open_adapter(run, base, dtype=torch.bfloat16), model).kl < 2e-3 * ROUNDING
    shift = compare(run, open_adapter(run, base, NF4), model)
    assert shift.kl > 0.05
    assert f"{shift.kl:.4g}" in capsys.readouterr().out


KINDS = {
    "rslora": AdapterConfig(rank=8, alpha=8.0, rank_stabilized=True, train_stop_token=TrainStopToken.always),
    "dora": AdapterConfig(rank=8, dora=True, train_stop_token=TrainStopToken.always),
    "pissa": AdapterConfig(rank=8, alpha=8.0, init=Init.pissa, train_stop_token=TrainStopToken.always),
    "olora": AdapterConfig(rank=8, alpha=8.0, init=Init.olora),
    "eva": AdapterConfig(rank=8, init=Init.eva),
    "whole-head": AdapterConfig(rank=8, modules_to_save=["lm_head"]),
    "vera": AdapterConfig(kind=AdapterKind.vera),
    "ia3": AdapterConfig(kind=AdapterKind.ia3),
    "oft": AdapterConfig(kind=AdapterKind.oft),
}


@pytest.mark.every_change("rslora-dtype0", "dora-dtype1", "whole-head-dtype5")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, torch.float32) for kind in KINDS]
    + [(kind, torch.bfloat16) for kind in ("dora", "pissa", "whole-head", "vera", "ia3", "oft")],
)
def test_every_kind_merges(tmp_path, tokenizer, kind, dtype):
    """Within the limits of ``sft merge`` itself, and far from the base."""
    base = save_base(tmp_path / "base", dtype)
    run = make_run(tmp_path / "run", base, tokenizer, dtype=dtype, adapter=KINDS[kind])

    execute(["merge", str(run.path)])

    model = merged(run.path / "merged")
    assert model.dtype == dtype
    assert {value.dtype for value in model.parameters()} == {dtype}
    moved = compare(run, AutoModelForCausalLM.from_pretrained(base), model).kl
    assert moved > 10 * MAX_KL[dtype]
    assert compare(run, open_adapter(run, base, dtype=dtype), model).kl < MAX_KL[dtype]
    assert f"| adapter | {describe_adapter(KINDS[kind])} |" in (run.path / "merged/README.md").read_text()


@pytest.mark.every_change("rslora", "loftq")
@pytest.mark.parametrize("kind", [*KINDS, "loftq"])
def test_every_kind_merges_into_the_dequantized_base(tmp_path, tokenizer, kind):
    adapter = {**KINDS, "loftq": AdapterConfig(rank=8, init=Init.loftq)}[kind]
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4, adapter=adapter)

    execute(["merge", str(run.path), "--into", "dequantized"])

    shift = compare(run, open_adapter(run, base, NF4), merged(run.path / "merged")).kl
    assert shift < 1e-8


def test_loftq_is_not_merged_into_the_original_base(tmp_path, tokenizer):
    adapter = AdapterConfig(rank=8, init=Init.loftq)
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer, quant=NF4, adapter=adapter)
    assert refused([str(run.path)]) == (
        "--into original: init loftq put the rounding error of nf4 into the adapter, which the original base does not"
        " have\n  fix: --into dequantized"
    )


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (AdapterKind.bitfit, "the run trained the model's own biases, so there is no adapter to merge"),
        (AdapterKind.prefix, "an adapter of kind prefix is not an update of the weights and cannot be merged"),
        (AdapterKind.prompt, "an adapter of kind prompt is not an update of the weights and cannot be merged"),
        (
            AdapterKind.llama_adapter,
            "an adapter of kind llama_adapter is not an update of the weights and cannot be merged",
        ),
    ],
)
def test_kinds_that_do_not_merge(tmp_path, tokenizer, kind, problem):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    config = read_config(run.config)
    config.adapter.kind = kind
    run.config.write_text(dump_config(config))
    told = refused([str(run.path)])
    assert told.startswith(f"{run.path}: {problem}\n  fix: ")
    assert (f"cp -r {run.adapter} {run.path}/merged" in told) == (kind is AdapterKind.bitfit)
    assert (f"PeftModel.from_pretrained(base, '{run.adapter}')" in told) == (kind is not AdapterKind.bitfit)


def test_pefts_merge_into_4bit_changes_the_model(tmp_path, tokenizer):
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4)
    execute(["merge", str(run.path), "--into", "dequantized"])
    adapted = open_adapter(run, base, NF4)
    trained = trained_logits(adapted, read_comparison_rows(run.probes))
    with pytest.warns(UserWarning, match="Merge lora module to 4-bit linear may get different generations"):
        requantized = adapted.merge_and_unload()

    lost = compare_logits(trained, trained_logits(requantized, read_comparison_rows(run.probes)))
    kept = compare_logits(trained, trained_logits(merged(run.path / "merged"), read_comparison_rows(run.probes)))
    assert lost.kl > 0.02
    assert kept.kl < 1e-10


def test_dtype_of_a_base_whose_config_names_none(tmp_path, tokenizer):
    base = save_base(tmp_path / "base", torch.bfloat16)
    run = make_run(tmp_path / "run", base, tokenizer)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config))

    execute(["merge", str(run.path)])

    assert merged(run.path / "merged").dtype == torch.bfloat16


def refused(words: list[str]) -> str:
    with pytest.raises(SftError) as error:
        execute(["merge", *words])
    return str(error.value)


def test_a_nan_adapter_fails_and_leaves_nothing(tmp_path, tokenizer):
    """NaN compares false with everything, so a limit must not be passed by it."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    file = run.adapter / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})

    assert refused([str(run.path), "--out", f"{tmp_path}/out/here"]) == (
        f"sft merge {run.path} --into original: the merged model differs from the adapter:"
        " KL nan nats over 35 positions, at most 0.0001 is allowed; nothing was written\n"
        f"  fix: check the adapter: sft eval {run.path}; --max-kl NATS allows more"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_max_kl(tmp_path, tokenizer):
    """Half precision rounds: below a strict limit it fails, and the same merge passes the default."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base", torch.bfloat16), tokenizer)

    assert "at most 1e-09 is allowed; nothing was written" in refused([str(run.path), "--max-kl", "1e-9"])
    assert not (run.path / "merged").exists()
    execute(["merge", str(run.path)])
    assert (run.path / "merged/model.safetensors").is_file()


def test_an_adapter_that_lacks_a_tensor_is_refused(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    file = run.adapter / "adapter_model.safetensors"
    weights = load_file(file)
    first = next(name for name in weights if "lora_B" in name)
    del weights[first]
    save_file(weights, file, {"format": "pt"})

    assert refused([str(run.path)]) == misfit(run, tmp_path / "base", lost=0, bare=1)
    assert not (run.path / "merged").exists()


@pytest.mark.parametrize(("layers", "lost", "bare"), [(1, 14, 0), (3, 0, 14)], ids=["fewer", "more"])
def test_a_base_of_another_depth_is_refused(tmp_path, tokenizer, layers, lost, bare):
    """Each decoder layer has 14 tensors. PEFT shortens layer names to their ends from 20 layers on; here by hand."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    other = save_base(tmp_path / "other", layers=layers)
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    names = sorted({name.rsplit(".", 1)[-1] for name in config["target_modules"]})
    file.write_text(json.dumps({**config, "target_modules": names}))

    assert refused([str(run.path), f"model.path={other}"]) == misfit(run, other, lost=lost, bare=bare)
    assert not (run.path / "merged").exists()


def misfit(run: RunDir, base: Path, *, lost: int, bare: int) -> str:
    return (
        f"{run.adapter}: the adapter does not fit the base {base}:"
        f" {lost} of its tensors are unexpected, {bare} are missing\n"
        "  fix: name the base it was trained on: model.path=DIR_OR_HUB_ID"
    )


def test_merged_files_follow_the_umask(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    before = os.umask(0o027)
    try:
        execute(["merge", str(run.path)])
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (run.path / "merged").iterdir()} == {0o640}


def test_printed_commands_are_quoted(tmp_path, tokenizer):
    run = make_run(tmp_path / "my run", save_base(tmp_path / "base"), tokenizer)
    (run.path / "merged").mkdir()

    assert refused([str(run.path)]).endswith(f"fix: choose another directory: --out '{run.path}/merged-2'")


def test_moved_base_can_be_named(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "base").rename(tmp_path / "moved")

    assert f"{tmp_path}/base is neither a directory nor a hub id" in refused([str(run.path)])
    execute(["merge", str(run.path), f"model.path={tmp_path}/moved"])
    assert (run.path / "merged").is_dir()


def test_nothing_is_overwritten(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "out").write_text("mine")

    assert refused([str(run.path), "--out", f"{tmp_path}/out"]) == (
        f"--out {tmp_path}/out: it already exists, and nothing is overwritten\n"
        f"  fix: choose another directory: --out {tmp_path}/out-2"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_runs_that_cannot_be_merged_are_refused_before_weights_are_read(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    shutil.rmtree(tmp_path / "base")

    assert refused(["--out", "x"]).startswith("sft merge: no run is named\n  fix: sft merge ")
    assert refused([str(run.path), "--into", "4bit"]) == (
        "--into 4bit: '4bit' is not one of 'original', 'dequantized'\n"
        "  fix: choose one of --into original, --into dequantized"
    )
    unknown = "write --max-kl NATS, or leave it out"
    fixes = {"nan": unknown, "0": unknown, "inf": unknown, "much": unknown, "0,001": "did you mean --max-kl 0.001?"}
    for wrong, fix in fixes.items():
        told = refused([str(run.path), "--max-kl", wrong])
        assert told.startswith(f"--max-kl {wrong}: ")
        assert told.endswith(f"\n  fix: {fix}")
    assert refused([str(run.path), "trainer.lr=1"]) == (
        "trainer.lr: sft merge does not read this key; it uses the value of the run\n  fix: leave it out; keys"
        " that can be set:"
        " model.path, model.revision, model.trust_remote_code, trainer.device"
    )
    assert refused([str(run.path), "--out", ""]) == (
        "--out: the option has no value\n  fix: write --out DIR, or leave it out"
    )
    assert refused([str(run.path), "--into", "dequantized"]) == (
        "--into dequantized: the run's base was not quantized\n"
        "  fix: leave --into out: the adapter is added to the original base"
    )
    run.probes.rename(tmp_path / "probes.json")
    assert refused([str(run.path)]) == (
        f"{run.probes}: the run directory is incomplete: this file is missing\n"
        "  fix: copy it from the machine on which the run was trained"
    )


def test_fully_trained_model_has_nothing_to_merge(tmp_path):
    run = RunDir(tmp_path / "run")
    run.model.mkdir(parents=True)
    run.config.write_text(dump_config(Config(adapter=AdapterConfig(kind=AdapterKind.none))))

    assert refused([str(run.path), "--out", f"{tmp_path}/out"]) == (
        f"{run.path}: the run trained the model's own weights, so there is no adapter to merge\n"
        f"  fix: the model is already complete: cp -r {run.model} {tmp_path}/out"
    )


def test_quantized_base_cannot_be_merged_into(tmp_path, tokenizer):
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))

    assert refused([str(run.path)]) == (
        f"model.path={base}: the base is stored quantized, and an adapter cannot be added to such weights\n"
        "  fix: name the same model in float32, bfloat16 or float16: model.path=DIR_OR_HUB_ID"
    )


def test_full_disk_is_reported_before_loading(tmp_path, tokenizer, monkeypatch):
    """Two layers of 128 and 192, two matrices of 320 rows: 328,320 parameters of 4 bytes."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "base/model.safetensors").unlink()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))

    assert refused([str(run.path)]) == (
        f"--out {run.path}/merged: the merged model needs 1.3 MiB, the disk has 1.0 MiB free\n"
        "  fix: --out DIR on another disk"
    )


def test_read_comparison_rows_needs_trained_tokens(tmp_path):
    file = tmp_path / "probes.json"
    file.write_text(json.dumps([{"where": "a:1", "input_ids": [1, 2], "labels": [1, -100]}]))

    with pytest.raises(SftError, match="there is no row with a trained token for comparing the models"):
        read_comparison_rows(file)


def test_compared_positions():
    """Labels stand at their own token; the position before it predicts it, and nothing predicts the first."""
    probe = ComparisonRow("a:1", [9, 8, 7, 6, 5, 4], [9, -100, 7, 6, -100, 4])

    assert probe.compared_positions(10) == [1, 2, 4]
    assert probe.compared_positions(2) == [1, 2]
    assert probe.compared_positions(1) == [1]


def test_compare_logits_by_hand():
    """KL((3/4, 1/4) ‖ (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2; over two positions, the other equal."""
    first = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).log()
    second = torch.tensor([[1.0, 1.5], [1.0, 2.0]]).log()
    level = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).log()
    expected = (0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()).item() / 2

    assert compare_logits([first], [level]).kl == pytest.approx(expected, rel=1e-6)
    assert compare_logits([first[:1], first[1:]], [second[:1], second[1:]]).argmax == 0.5
    assert replace(compare_logits([first], [first]), kl=0.0) == Agreement(0.0, 1.0, 2, 1)


def test_a_tokenizer_that_transformers_rebuilds_is_refused(tmp_path, tokenizer):
    """Beside a qwen2 config.json transformers normalizes to NFC, whatever tokenizer.json says."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base", kind=Qwen2Config), tokenizer)
    (tmp_path / "base/model.safetensors").unlink()
    ids = Tokenizer.from_file(str(run.adapter / "tokenizer.json")).encode("cafe\u0301").ids
    run.probes.write_text(json.dumps([{"where": "facts.jsonl:1", "input_ids": ids, "labels": ids}]))

    found = refused([str(run.path)])
    assert found.startswith(
        f"facts.jsonl:1 with the tokenizer in {run.adapter}: a server would encode this row to ids that differ from the"
        " trained ones:"
    )
    assert found.endswith(f"\n  fix: {server.SERVER_FIX}")
    assert [path.name for path in run.path.glob("*merged*")] == []


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_tokenizer_survives_with_another_familys_config(tmp_path, tokenizer, kind):
    base = save_base(tmp_path / "base", kind=kind)
    run = make_run(tmp_path / "run", base, tokenizer)

    execute(["merge", str(run.path)])

    own = Tokenizer.from_file(str(run.adapter / "tokenizer.json"))
    opened = AutoTokenizer.from_pretrained(run.path / "merged")
    for text in [*PROMPTS, "ümläut 12345", f"a{STOP}b"]:
        assert opened.encode(text, add_special_tokens=False) == own.encode(text, add_special_tokens=False).ids
