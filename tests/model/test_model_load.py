"""Loading: the dtype of the weights, and errors of model paths."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, T5Config

from sft_cli.config.schema.adapter import QuantConfig
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.trainer import Dtype
from sft_cli.errors import SftError
from sft_cli.model.load import load_model, load_model_config

CPU = torch.device("cpu")


def load(path, *, full=False, compute=torch.bfloat16, dtype=Dtype.auto):
    return load_model(
        ModelConfig(path=str(path), dtype=dtype), QuantConfig(), full=full, device=CPU, compute_dtype=compute
    )


@pytest.mark.parametrize(
    ("full", "compute", "dtype", "expected"),
    [
        pytest.param(False, torch.bfloat16, Dtype.auto, torch.bfloat16, id="adapter-follows-compute"),
        pytest.param(True, torch.bfloat16, Dtype.auto, torch.float32, id="full-keeps-master-weights"),
        pytest.param(True, torch.float32, Dtype.bfloat16, torch.bfloat16, id="configured-half"),
        pytest.param(False, torch.bfloat16, Dtype.float32, torch.float32, id="configured-single"),
    ],
)
def test_weights_dtype(saved, full, compute, dtype, expected):
    model = load(saved, full=full, compute=compute, dtype=dtype)
    assert {value.dtype for value in model.parameters()} == {expected}
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def wider(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))


def test_load_model_config(saved):
    assert load_model_config(ModelConfig(path=str(saved))).hidden_size == 128


def broken(saved, target, change):
    shutil.copytree(saved, target, dirs_exist_ok=True)
    change(target)
    return target


def translator(directory):
    T5Config().save_pretrained(directory)


def unknown_type(directory):
    (directory / "config.json").write_text('{"model_type": "frobnicator"}')


def own_code(directory):
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (directory / "config.json").write_text(json.dumps(config))


def lost_shard(directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        pytest.param(
            lambda directory: (directory / "config.json").unlink(),
            "{path} has no config.json",
            "name the directory that save_pretrained wrote",
            id="no-config",
        ),
        pytest.param(
            translator,
            "model type t5 is not a causal language model",
            "name a model that AutoModelForCausalLM can load",
            id="encoder-decoder",
        ),
        pytest.param(
            own_code,
            "the model has its own Python code",
            "model.trust_remote_code=true, if you trust its author",
            id="own-code",
        ),
        pytest.param(
            lost_shard,
            "weight file model-00001-of-00002.safetensors is missing",
            "download the model again",
            id="lost-shard",
        ),
        pytest.param(
            lambda directory: (directory / "model.safetensors").unlink(),
            "the directory holds a config.json, but no weights",
            "copy *.safetensors there, or name a directory that has them: ls {path.parent}",
            id="no-weights",
        ),
        pytest.param(
            pickled,
            "the directory holds no safetensors weights, and pickled weights are not read",
            "convert them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
            id="pickled",
        ),
        pytest.param(
            wider,
            "the shapes of its weights are not those that config.json gives",
            "repair config.json, or download the model again",
            id="other-shapes",
        ),
    ],
)
def test_directory_without_a_model_is_refused(saved, tmp_path, change, problem, fix):
    path = broken(saved, tmp_path, change)
    with pytest.raises(SftError) as caught:
        load(path)
    assert str(caught.value) == f"model.path={path}: {problem.format(path=path)}\n  fix: {fix.format(path=path)}"


def test_unknown_family_is_refused(saved, tmp_path):
    path = broken(saved, tmp_path, unknown_type)
    with pytest.raises(SftError) as caught:
        load(path)
    assert "model type `frobnicator`" in caught.value.problem
    assert caught.value.fix == "repair the directory or download the model again"


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/place", "a/b/c"])
def test_missing_path_is_refused(path):
    with pytest.raises(SftError) as caught:
        load(path)
    assert str(caught.value) == (
        f"model.path={path}: {path} is neither a directory nor a hub id\n"
        "  fix: check the path, or name a hub id such as Qwen/Qwen2.5-0.5B"
    )


def test_model_path_is_required():
    with pytest.raises(SftError) as caught:
        load_model_config(ModelConfig())
    assert str(caught.value) == "model.path: no model is named\n  fix: model.path=DIR_OR_HUB_ID"


def test_unreachable_hub(monkeypatch):
    """transformers raises OSError for any reason; the test does not use the network."""

    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(SftError) as caught:
        load("owner/model")
    assert str(caught.value) == (
        "model.path=owner/model: We couldn't connect to 'https://huggingface.co' to load the files.\n"
        "  fix: HF_HUB_OFFLINE=1 is set in this shell, and the model is not in its cache:"
        " unset HF_HUB_OFFLINE, or name a local directory"
    )
