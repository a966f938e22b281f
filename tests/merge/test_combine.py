"""``sft merge --combine``: the combined adapter is the weighted sum of the updates, or close to it."""

import json

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from sft_cli.cli import execute
from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.merge import combine
from sft_cli.model.adapter.add import silence_peft_warnings
from sft_cli.model.adapter.warm_start import adapter_digest
from tests.merge.helpers import compare, make_run, merge_error, open_merged, save_base

WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def runs(tokenizer, tmp_path_factory):
    """Return two runs of one base, with different ranks and scales, one rank-stabilized."""
    folder = tmp_path_factory.mktemp("combined")
    base = save_base(folder / "base", layers=1)
    first = make_run(folder / "a", base, tokenizer, adapter=AdapterConfig(rank=4, alpha=12, rank_stabilized=True))
    second = make_run(folder / "b", base, tokenizer, adapter=AdapterConfig(rank=8, alpha=16))
    for seed, run in enumerate((first, second)):
        generator = torch.Generator().manual_seed(seed)
        file = run.adapter / "adapter_model.safetensors"
        noise = {name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in load_file(file).items()}
        save_file(noise, file, {"format": "pt"})
    return first, second


def combined(runs, out, *words: str):
    """Combine the runs and return the base with the combined adapter."""
    weights = ",".join(map(str, WEIGHTS))
    execute(["merge", *(str(run.path) for run in runs), "--weights", weights, "--out", str(out), *words])
    with silence_peft_warnings():
        return PeftModel.from_pretrained(open_merged(runs[0].path.parent / "base"), str(out))


def summed(runs):
    """Return the base plus the sum of w s B A, from the files alone."""
    model = open_merged(runs[0].path.parent / "base")
    for run, weight, scale in zip(runs, WEIGHTS, (12 / 4**0.5, 16 / 8), strict=True):
        tensors = load_file(run.adapter / "adapter_model.safetensors")
        for name, a in tensors.items():
            if name.endswith("lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[name.replace("lora_A", "lora_B")]
                model.get_submodule(module).weight.data += weight * scale * (b @ a)
    return model


def test_linear_is_the_weighted_sum_of_the_updates(runs, tmp_path, capsys):
    model = combined(runs, tmp_path / "new", "--combine", "linear")

    assert compare(runs[0], summed(runs), model).kl < 1e-8
    assert compare(runs[0], open_merged(runs[0].path.parent / "base"), model).kl > 0.1
    record = json.loads((tmp_path / "new/combined.json").read_text())
    assert [entry["weight"] for entry in record["adapters"]] == list(WEIGHTS)
    assert [entry["sha256"] for entry in record["adapters"]] == [adapter_digest(run.adapter) for run in runs]
    assert str(tmp_path) not in json.dumps(record)
    assert "sum of the updates and linear" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["svd", "ties", "dare"])
def test_other_methods_with_every_entry_kept_are_the_best_adapter_of_the_largest_rank(runs, tmp_path, method):
    """With density 1, DARE is the sum; SVD truncates it to rank 8, which is closer than no update."""
    words = [] if method == "svd" else ["--density", "1"]
    model = combined(runs, tmp_path / "new", "--combine", method, *words)
    layer = next(layer for layer in model.modules() if isinstance(layer, LoraLayer))

    assert layer.r["default"] == 8
    if method == "ties":
        return
    exact = (
        summed(runs).model.layers[0].self_attn.q_proj.weight
        - open_merged(runs[0].path.parent / "base").model.layers[0].self_attn.q_proj.weight
    )
    update = model.base_model.model.model.layers[0].self_attn.q_proj.get_delta_weight("default")
    tail = torch.linalg.svdvals(exact)[8:].norm()
    assert torch.isclose((exact - update).norm(), tail, rtol=1e-3)


def test_dare_is_the_same_each_time(runs, tmp_path):
    for name in ("x", "y"):
        combined(runs, tmp_path / name, "--combine", "dare")

    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("x", "y"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_wrong_sum_is_refused_and_nothing_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(combine.PEFT_NAMES, "linear", "svd")
    words = [*(str(run.path) for run in runs), "--combine", "linear", "--out", str(tmp_path / "new")]

    assert "differs from the sum of the updates" in merge_error(words)
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_cannot_be_combined_are_refused(runs, tokenizer, tmp_path):
    other = make_run(tmp_path / "c", save_base(tmp_path / "other", layers=1), tokenizer)
    dora = make_run(tmp_path / "d", runs[0].path.parent / "base", tokenizer, adapter=AdapterConfig(rank=4, dora=True))
    rows = AdapterConfig(rank=4, modules_to_save=["lm_head"])
    saved = make_run(tmp_path / "s", runs[0].path.parent / "base", tokenizer, adapter=rows)
    name = str(runs[0].path)

    assert "adapters of different bases cannot be combined" in merge_error([name, str(other.path), "--combine", "svd"])
    for run, reason in ((dora, "it is a DoRA adapter"), (saved, "it has whole modules")):
        message = merge_error([name, str(run.path), "--combine", "linear"])
        assert reason in message
        assert f"sft merge {run.path}" in message
    assert not (runs[0].path / "combined").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["B"], "several runs are merged only with --combine"),
        (["--combine", "linear"], "it combines two runs or more"),
        (["B", "--combine", "linear", "--weights", "1"], "2 runs need 2 numbers"),
        (["B", "--combine", "linear", "--weights", "1,nan"], "2 runs need 2 numbers"),
        (["B", "--combine", "svd", "--density", "0.3"], "--combine svd does not use it"),
        (["--weights", "1"], "it belongs to --combine"),
        (["B", "--combine", "svd", "--into", "dequantized"], "--combine svd does not use it"),
    ],
)
def test_options_without_effect_are_refused(runs, words, expected):
    named = [str(runs[1].path) if word == "B" else word for word in words]

    assert expected in merge_error([str(runs[0].path), *named])
