"""``sft export``: the written model, adapter or GGUF file is complete, checked, and equal to the run's."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sft_cli.cli import execute
from sft_cli.config.compose import dump_config, read_config
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.export import llama_cpp, request
from sft_cli.export.record import read_record
from sft_cli.model.adapter.add import silence_peft_warnings
from sft_cli.utils.hashing import sha256_of_file
from tests.export.saved import save_run
from tests.merge.helpers import compare, open_adapter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run with a trained stop row."""
    return save_run(tmp_path_factory.mktemp("saved"), stop=TrainStopToken.always)


def error_of(*words) -> str:
    """Run ``sft export``, which must raise, and return its message."""
    with pytest.raises(SftError) as error:
        execute(["export", *map(str, words)])
    return str(error.value)


def test_a_merged_model_in_another_dtype_and_in_shards(run, tmp_path, capsys):
    execute(["export", str(run.path), "--out", f"{tmp_path}/new", "--dtype", "bfloat16", "--shard-size", "200KB"])

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert model.dtype == torch.bfloat16
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 1
    assert compare(run, open_adapter(run, run.path.parent / "base"), model).kl < 5e-3
    record = read_record(tmp_path / "new")
    assert record is not None
    files = {file.name for file in (tmp_path / "new").iterdir()} - {"export.json"}
    assert record["sha256"] == {name: sha256_of_file(tmp_path / "new" / name) for name in files}
    assert record["base"]["sha256"] == {"model.safetensors": sha256_of_file(run.path.parent / "base/model.safetensors")}
    assert str(tmp_path) not in json.dumps(record)
    assert "size      model in bfloat16: about" in capsys.readouterr().out


@pytest.mark.slow
def test_the_sum_is_rounded_once_in_another_dtype(run, tmp_path):
    for dtype in ("float32", "float16"):
        execute(["export", str(run.path), "--out", f"{tmp_path}/{dtype}", "--dtype", dtype])

    wide, half = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("float32", "float16"))
    assert {name: tensor.half() for name, tensor in wide.items()}.keys() == half.keys()
    assert all(torch.equal(wide[name].half(), half[name]) for name in wide)


def test_an_adapter_opens_with_peft(run, tmp_path):
    execute(["export", str(run.path), "--to", "adapter", "--out", f"{tmp_path}/new"])

    settings = json.loads((tmp_path / "new/adapter_config.json").read_text())
    assert "This is an adapter for PEFT" in (tmp_path / "new/README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
    with silence_peft_warnings():
        exported = PeftModel.from_pretrained(base, str(tmp_path / "new"))
    assert compare(run, open_adapter(run, run.path.parent / "base"), exported).kl == 0


def test_a_portable_adapter_is_plain_lora_on_a_base_with_the_trained_rows(run, tmp_path):
    execute(["export", str(run.path), "--to", "adapter", "--portable", "--out", f"{tmp_path}/new"])

    settings = json.loads((tmp_path / "new/adapter/adapter_config.json").read_text())
    assert settings["trainable_token_indices"] is None
    names = load_file(tmp_path / "new/adapter/adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
    with silence_peft_warnings():
        portable = PeftModel.from_pretrained(base, str(tmp_path / "new/adapter"))
    assert compare(run, open_adapter(run, run.path.parent / "base"), portable).kl < 1e-10


def test_a_gguf_file_without_llama_cpp_is_written_and_says_so(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)

    execute(["export", str(run.path), "--to", "ollama", "--out", f"{tmp_path}/new"])

    assert sorted(os.listdir(tmp_path / "new")) == ["Modelfile", "README.md", "export.json", "tiny-f16.gguf"]
    assert (tmp_path / "new/Modelfile").read_text().splitlines()[:2] == [
        "FROM ./tiny-f16.gguf",
        'PARAMETER stop "<|end|>"',
    ]
    assert "TEMPLATE" not in (tmp_path / "new/Modelfile").read_text()
    assert "verified  nothing more: llama-cpp-python is not installed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_gguf_file_is_compared_with_transformers(run, tmp_path, capsys):
    pytest.importorskip("llama_cpp")

    execute(["export", str(run.path), "--to", "gguf", "--dtype", "f32", "--out", f"{tmp_path}/new"])

    printed = capsys.readouterr().out
    assert "verified  ids of 11 texts are equal in llama.cpp" in printed
    assert "verified  8 of 8 greedy answers equal those of transformers" in printed


@pytest.mark.slow
def test_the_model_of_a_full_fine_tuning_is_exported(tmp_path, capsys):
    saved = save_run(tmp_path)
    execute(["export", str(saved.path), "--out", str(saved.path / "model"), "--dtype", "float32"])
    (saved.path / "model" / "export.json").unlink()
    shutil.rmtree(saved.adapter)
    config = read_config(saved.config)
    saved.config.write_text(dump_config(replace(config, adapter=AdapterConfig(kind=AdapterKind.none))))

    execute(["export", str(saved.path), "--out", f"{tmp_path}/half", "--dtype", "float16"])
    assert "the run trained the model's own weights and has no adapter" in error_of(saved.path, "--to", "adapter")
    execute(["export", str(saved.path), "--to", "gguf", "--dtype", "f32", "--out", f"{tmp_path}/gguf"])

    whole, half = (load_file(place / "model.safetensors") for place in (saved.path / "model", tmp_path / "half"))
    assert all(torch.equal(whole[name].half(), half[name]) for name in whole)
    assert os.listdir(tmp_path / "gguf") != []
    assert execute(["verify", f"{tmp_path}/half", "--run", str(saved.path)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "int4"], "--to merged writes float32, bfloat16, float16"),
        (["--to", "gguf", "--dtype", "q4"], "--to gguf writes f32, f16, bf16, q8_0"),
        (["--to", "adapter", "--dtype", "float16"], "it would have no effect: an adapter keeps the dtype"),
        (["--shard-size", "five"], "it is not a size such as 5GB or 500MB"),
        (["--portable"], "it would have no effect: --to merged already contains every trained row"),
        (["--converter", "x.py"], "it would have no effect: --to merged writes no GGUF file"),
        (["--to", "gguf", "--converter", "x.py"], "there is no such file"),
        (["--out", "."], "it already exists, and nothing is overwritten"),
        (["trainer.lr=1"], "trainer.lr"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_options_are_refused_before_anything_is_loaded(run, words, message):
    before = sorted(os.listdir(run.path))
    assert message in error_of(run.path, *words)
    assert sorted(os.listdir(run.path)) == before


def test_a_full_disk_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(request, "free_bytes", lambda path: 1000)
    assert "the disk has 0.0 MiB free" in error_of(run.path, "--out", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_if_the_file_cannot_be_written(run, tmp_path, monkeypatch):
    from sft_cli.export import model_files

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files, "write_record", full)
    assert "the export cannot be written: No space left on device" in error_of(run.path, "--out", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
