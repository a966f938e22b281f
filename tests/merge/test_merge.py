"""The merged model agrees with the adapter, opens with plain transformers, and is complete."""

import json
import os

import pytest
import torch
from rounding import ROUNDING
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, pipeline

from sft_cli.cli import execute
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init, QuantConfig, QuantKind, TrainStopToken
from sft_cli.merge.agreement import MAX_KL, compare_logits, read_comparison_rows, trained_logits
from sft_cli.merge.card_settings import describe_adapter
from sft_cli.model.quant import causal_lm, evaluation_mode
from tests.merge.helpers import NF4, PROMPTS, STOP, TEMPLATE, compare, make_run, open_adapter, open_merged, save_base


@pytest.mark.every_change("torch.float32-1e-10-untied-never", "torch.bfloat16-0.02-tied-always")
@pytest.mark.parametrize("stop", [TrainStopToken.never, TrainStopToken.always])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-10), (torch.bfloat16, 2e-3 * ROUNDING)], ids=str)
def test_merged_model_agrees_with_the_adapter(tmp_path, tokenizer, dtype, limit, tied, stop):
    """The KL divergence from the adapter is below the limit, and that from the base is 100 times the limit."""
    base = save_base(tmp_path / "base", dtype, tied=tied)
    run = make_run(tmp_path / "run", base, tokenizer, stop=stop)

    execute(["merge", str(run.path)])

    model, adapted = open_merged(run.path / "merged"), open_adapter(run, base, dtype=dtype)
    assert model.dtype == dtype
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    agreement = compare(run, adapted, model)
    assert agreement.kl < limit
    assert agreement.positions == 5 * 7
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

    model, loaded = open_merged(tmp_path / "merged"), AutoTokenizer.from_pretrained(tmp_path / "merged")
    adapted = open_adapter(run, base)
    # generate() takes unset values from the model's generation config, here the base's repetition penalty.
    causal_lm(adapted).generation_config = model.generation_config
    texts = []
    for prompt in PROMPTS:
        inputs = loaded.apply_chat_template([{"role": "user", "content": prompt}], return_tensors="pt")
        generated = model.generate(**inputs, max_new_tokens=24)
        with evaluation_mode(adapted):
            expected = causal_lm(adapted).generate(**inputs, max_new_tokens=24)
        assert loaded.decode(generated[0]) == loaded.decode(expected[0])
        texts.append(loaded.decode(generated[0][inputs["input_ids"].shape[1] :]))

    assert loaded.decode(inputs["input_ids"][0]) == "user: a b c d<|end|>assistant: "
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
    """Training computes with the dequantized weights, into which the adapter is merged."""
    quant = QuantConfig(kind=kind)
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=quant, dtype=dtype, stop=TrainStopToken.always)

    execute(["merge", str(run.path), "--into", "dequantized"])

    model = open_merged(run.path / "merged")
    assert model.dtype == dtype
    assert "quantization_config" not in vars(model.config)
    shift = compare(run, open_adapter(run, base, quant, dtype), model)
    assert shift.kl < limit
    assert f"as trained ({kind.value}) and merged: quantization shift" in capsys.readouterr().out


def test_merging_a_4bit_run_into_the_original_base_prints_the_shift(tmp_path, tokenizer, capsys):
    base = save_base(tmp_path / "base", torch.bfloat16)
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4)

    execute(["merge", str(run.path)])

    model = open_merged(run.path / "merged")
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
    """The KL divergence is within the limit of ``sft merge`` from the adapter, and 10 times the limit from the base."""
    base = save_base(tmp_path / "base", dtype)
    run = make_run(tmp_path / "run", base, tokenizer, dtype=dtype, adapter=KINDS[kind])

    execute(["merge", str(run.path)])

    model = open_merged(run.path / "merged")
    assert model.dtype == dtype
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert compare(run, AutoModelForCausalLM.from_pretrained(base), model).kl > 10 * MAX_KL[dtype]
    assert compare(run, open_adapter(run, base, dtype=dtype), model).kl < MAX_KL[dtype]
    assert f"| adapter | {describe_adapter(KINDS[kind])} |" in (run.path / "merged/README.md").read_text()


@pytest.mark.every_change("rslora", "loftq")
@pytest.mark.parametrize("kind", [*KINDS, "loftq"])
def test_every_kind_merges_into_the_dequantized_base(tmp_path, tokenizer, kind):
    adapter = {**KINDS, "loftq": AdapterConfig(rank=8, init=Init.loftq)}[kind]
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4, adapter=adapter)

    execute(["merge", str(run.path), "--into", "dequantized"])

    shift = compare(run, open_adapter(run, base, NF4), open_merged(run.path / "merged")).kl
    assert shift < 1e-8


def test_pefts_merge_into_4bit_changes_the_model(tmp_path, tokenizer):
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, tokenizer, quant=NF4)
    execute(["merge", str(run.path), "--into", "dequantized"])
    adapted = open_adapter(run, base, NF4)
    trained = trained_logits(adapted, read_comparison_rows(run.probes))
    with pytest.warns(UserWarning, match="Merge lora module to 4-bit linear may get different generations"):
        requantized = adapted.merge_and_unload()

    requantized_agreement = compare_logits(trained, trained_logits(requantized, read_comparison_rows(run.probes)))
    merged_agreement = compare_logits(
        trained, trained_logits(open_merged(run.path / "merged"), read_comparison_rows(run.probes))
    )
    assert requantized_agreement.kl > 0.02
    assert merged_agreement.kl < 1e-10


@pytest.mark.slow
def test_dtype_of_a_base_whose_config_names_none(tmp_path, tokenizer):
    base = save_base(tmp_path / "base", torch.bfloat16)
    run = make_run(tmp_path / "run", base, tokenizer)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config))

    execute(["merge", str(run.path)])

    assert open_merged(run.path / "merged").dtype == torch.bfloat16


@pytest.mark.slow
def test_merged_files_follow_the_umask(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"), tokenizer)
    before = os.umask(0o027)
    try:
        execute(["merge", str(run.path)])
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (run.path / "merged").iterdir()} == {0o640}


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_tokenizer_survives_with_another_familys_config(tmp_path, tokenizer, kind):
    base = save_base(tmp_path / "base", kind=kind)
    run = make_run(tmp_path / "run", base, tokenizer)

    execute(["merge", str(run.path)])

    own = Tokenizer.from_file(str(run.adapter / "tokenizer.json"))
    opened = AutoTokenizer.from_pretrained(run.path / "merged")
    for text in [*PROMPTS, "ümläut 12345", f"a{STOP}b"]:
        assert opened.encode(text, add_special_tokens=False) == own.encode(text, add_special_tokens=False).ids
