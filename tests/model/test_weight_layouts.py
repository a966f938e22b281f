"""Weights under the names that other versions of transformers wrote; missing weights are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft_cli.config.schema.adapter import QuantConfig
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.load import load_model
from tests.towers import saved

LAYER = "model.layers.1."


def opened(directory):
    model = ModelConfig(path=str(directory))
    return load_model(model, QuantConfig(), full=True, device=torch.device("cpu"), compute_dtype=torch.float32)


@pytest.fixture
def written(tmp_path):
    """The directory of a small Qwen2.5-VL with the published names (``visual.*``), its weights, and its state."""
    model = saved("qwen2_5_vl", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"visual", "model", "lm_head"}
    return tmp_path, weights, model.state_dict()


def save(directory, weights):
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("layout", ["published", "split", "flat config"])
def test_every_layout_of_qwen_vl_loads_the_same_weights(written, layout):
    """The towers and the language model apart in names, or the text model's settings at the top of config.json."""
    directory, weights, expected = written
    if layout == "split":
        renamed = {name.removeprefix("model."): value for name, value in weights.items()}
        prefixes = {"visual": "model.visual", "lm_head": "lm_head"}
        save(
            directory,
            {
                f"{prefixes.get(first, f'model.language_model.{first}')}.{rest}": value
                for name, value in renamed.items()
                for first, _, rest in [name.partition(".")]
            },
        )
    if layout == "flat config":
        config = json.loads((directory / "config.json").read_text())
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
        (directory / "config.json").write_text(json.dumps({**text, **config}))
    loaded = opened(directory).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("wrong", "missing"),
    [
        (lambda name: name.startswith(LAYER), "model.language_model.layers.1.input_layernorm.weight and 11 more"),
        (lambda name: name == "visual.merger.ln_q.weight", "model.visual.merger.ln_q.weight"),
    ],
)
def test_missing_weights_are_refused(written, wrong, missing):
    directory, weights, _ = written
    save(directory, {f"unknown.{name}" if wrong(name) else name: value for name, value in weights.items()})
    with pytest.raises(SftError) as caught:
        opened(directory)
    assert caught.value.problem == f"its files have no weights for {missing}; they would be random numbers"
