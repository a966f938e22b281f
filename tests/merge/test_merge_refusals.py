"""``sft merge`` refuses what cannot be merged, names the fix, and writes nothing."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config

from sft_cli.chat.template import server
from sft_cli.cli import execute
from sft_cli.config.compose import dump_config, read_config
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init
from sft_cli.config.schema.config import Config
from sft_cli.run_dir import RunDir
from tests.merge.helpers import NF4, make_run, merge_error, save_base


def test_loftq_is_not_merged_into_the_original_base(tmp_path, tokenizer):
    adapter = AdapterConfig(rank=8, init=Init.loftq)
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer, quant=NF4, adapter=adapter)
    assert merge_error([str(run.path)]) == (
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
    message = merge_error([str(run.path)])
    assert message.startswith(f"{run.path}: {problem}\n  fix: ")
    assert (f"cp -r {run.adapter} {run.path}/merged" in message) == (kind is AdapterKind.bitfit)
    assert (f"PeftModel.from_pretrained(base, '{run.adapter}')" in message) == (kind is not AdapterKind.bitfit)


def test_a_nan_adapter_fails_and_leaves_nothing(tmp_path, tokenizer):
    """Every comparison with NaN is false, so the limit must be checked so that NaN exceeds it."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    file = run.adapter / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})

    assert merge_error([str(run.path), "--out", f"{tmp_path}/out/here"]) == (
        f"sft merge {run.path} --into original: the merged model differs from the adapter:"
        " KL nan nats over 35 positions, at most 0.0001 is allowed; nothing was written\n"
        f"  fix: check the adapter: sft eval {run.path}; --max-kl NATS allows more"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_max_kl(tmp_path, tokenizer):
    """The rounding of bfloat16 exceeds a strict limit, but not the default one."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base", torch.bfloat16), tokenizer)

    assert "at most 1e-09 is allowed; nothing was written" in merge_error([str(run.path), "--max-kl", "1e-9"])
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

    assert merge_error([str(run.path)]) == misfit_message(run, tmp_path / "base", unexpected=0, missing=1)
    assert not (run.path / "merged").exists()


@pytest.mark.parametrize(("layers", "unexpected", "missing"), [(1, 14, 0), (3, 0, 14)], ids=["fewer", "more"])
def test_a_base_of_another_depth_is_refused(tmp_path, tokenizer, layers, unexpected, missing):
    """A decoder layer has 14 adapter tensors. The test shortens layer names, as PEFT does from 20 layers on."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    other = save_base(tmp_path / "other", layers=layers)
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    names = sorted({name.rsplit(".", 1)[-1] for name in config["target_modules"]})
    file.write_text(json.dumps({**config, "target_modules": names}))

    assert merge_error([str(run.path), f"model.path={other}"]) == misfit_message(
        run, other, unexpected=unexpected, missing=missing
    )
    assert not (run.path / "merged").exists()


def misfit_message(run: RunDir, base: Path, *, unexpected: int, missing: int) -> str:
    return (
        f"{run.adapter}: the adapter does not fit the base {base}:"
        f" {unexpected} of its tensors are unexpected, {missing} are missing\n"
        "  fix: name the base it was trained on: model.path=DIR_OR_HUB_ID"
    )


def test_printed_commands_are_quoted(tmp_path, tokenizer):
    run = make_run(tmp_path / "my run", save_base(tmp_path / "base"), tokenizer)
    (run.path / "merged").mkdir()

    assert merge_error([str(run.path)]).endswith(f"fix: choose another directory: --out '{run.path}/merged-2'")


def test_moved_base_can_be_named(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "base").rename(tmp_path / "moved")

    assert f"{tmp_path}/base is neither a directory nor a hub id" in merge_error([str(run.path)])
    execute(["merge", str(run.path), f"model.path={tmp_path}/moved"])
    assert (run.path / "merged").is_dir()


def test_nothing_is_overwritten(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "out").write_text("mine")

    assert merge_error([str(run.path), "--out", f"{tmp_path}/out"]) == (
        f"--out {tmp_path}/out: it already exists, and nothing is overwritten\n"
        f"  fix: choose another directory: --out {tmp_path}/out-2"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_runs_that_cannot_be_merged_are_refused_before_weights_are_read(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    shutil.rmtree(tmp_path / "base")

    assert merge_error(["--out", "x"]).startswith("sft merge: no run is named\n  fix: sft merge ")
    assert merge_error([str(run.path), "--into", "4bit"]) == (
        "--into 4bit: '4bit' is not one of 'original', 'dequantized'\n"
        "  fix: choose one of --into original, --into dequantized"
    )
    unknown = "write --max-kl NATS, or remove it"
    fixes = {"nan": unknown, "0": unknown, "inf": unknown, "much": unknown, "0,001": "did you mean --max-kl 0.001?"}
    for wrong, fix in fixes.items():
        message = merge_error([str(run.path), "--max-kl", wrong])
        assert message.startswith(f"--max-kl {wrong}: ")
        assert message.endswith(f"\n  fix: {fix}")
    assert merge_error([str(run.path), "trainer.lr=1"]) == (
        "trainer.lr: sft merge does not read this key; it uses the value of the run\n  fix: remove it; keys"
        " that can be set:"
        " model.path, model.revision, model.trust_remote_code, trainer.device"
    )
    assert merge_error([str(run.path), "--out", ""]) == (
        "--out: the option has no value\n  fix: write --out DIR, or remove it"
    )
    assert merge_error([str(run.path), "--into", "dequantized"]) == (
        "--into dequantized: the run's base was not quantized\n"
        "  fix: remove --into: the adapter is added to the original base"
    )
    run.probes.rename(tmp_path / "probes.json")
    assert merge_error([str(run.path)]) == (
        f"{run.probes}: the run directory is incomplete: this file is missing\n"
        "  fix: copy it from the machine on which the run was trained"
    )


def test_fully_trained_model_has_nothing_to_merge(tmp_path):
    run = RunDir(tmp_path / "run")
    run.model.mkdir(parents=True)
    run.config.write_text(dump_config(Config(adapter=AdapterConfig(kind=AdapterKind.none))))

    assert merge_error([str(run.path), "--out", f"{tmp_path}/out"]) == (
        f"{run.path}: the run trained the model's own weights, so there is no adapter to merge\n"
        f"  fix: the model is already complete: cp -r {run.model} {tmp_path}/out"
    )


def test_quantized_base_cannot_be_merged_into(tmp_path, tokenizer):
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))

    assert merge_error([str(run.path)]) == (
        f"model.path={base}: the base is stored quantized, and an adapter cannot be added to such weights\n"
        "  fix: model.path=DIR_OR_HUB_ID of the same model in float32, bfloat16, float16"
    )


def test_full_disk_is_reported_before_loading(tmp_path, tokenizer, monkeypatch):
    """The base has 328,320 parameters of 4 bytes: two layers of width 128 and 192, and two matrices of 320 rows."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    (tmp_path / "base/model.safetensors").unlink()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))

    assert merge_error([str(run.path)]) == (
        f"--out {run.path}/merged: the merged model needs 1.3 MiB, the disk has 1.0 MiB free\n"
        "  fix: --out DIR on another disk"
    )


def test_a_tokenizer_that_transformers_rebuilds_is_refused(tmp_path, tokenizer):
    """With the config.json of a Qwen2, transformers normalizes to NFC, even if tokenizer.json does not."""
    run = make_run(tmp_path / "run", save_base(tmp_path / "base", kind=Qwen2Config), tokenizer)
    (tmp_path / "base/model.safetensors").unlink()
    ids = Tokenizer.from_file(str(run.adapter / "tokenizer.json")).encode("cafe\u0301").ids
    run.probes.write_text(json.dumps([{"where": "facts.jsonl:1", "input_ids": ids, "labels": ids}]))

    message = merge_error([str(run.path)])
    assert message.startswith(
        f"facts.jsonl:1 with the tokenizer in {run.adapter}: a server would encode this row to ids that differ from the"
        " trained ones:"
    )
    assert message.endswith(f"\n  fix: {server.SERVER_FIX}")
    assert [path.name for path in run.path.glob("*merged*")] == []


@pytest.mark.slow
def test_merging_imports_no_library_that_warns_on_standard_error():
    """bitsandbytes, which only quantized models need, warns of a missing kernel when it is imported."""
    code = "import sys, sft_cli.merge.merge; print('bitsandbytes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "bitsandbytes" not in done.stderr
    assert "kernels" not in done.stderr


def test_the_tokenizer_of_a_server_does_not_warn_of_long_prompts(tokenizer, caplog, monkeypatch):
    """Callers cut prompts at the model's context; transformers would warn of indexing errors."""
    loaded = server.load_server_tokenizer(tokenizer, None, trust_remote_code=False)
    loaded.model_max_length = 2
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert len(loaded.encode("a b c d e f g")) > 2
    assert caplog.text == ""
