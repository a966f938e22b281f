"""Initial values of LoRA: from the base, the data, or another adapter; and frozen adapters."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init, QuantConfig, QuantKind, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, load_adapter, silence_peft_warnings
from sft_cli.model.adapter.lora_inits import base_weight, lora_layers, lora_matrices, top_singular_triples
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.adapter.warm_start import initial_adapter_digests
from sft_cli.model.load import load_model
from sft_cli.model.quant import evaluation_mode, quantized_layers

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 9, 30, 31, 77, 12, 2, 5]])


def lora(**values):
    return AdapterConfig(rank=values.pop("rank", 4), alpha=values.pop("alpha", 8.0), **values)


def adapted(build, config, **more):
    return add_adapter(build("llama"), config, [2], seed=3, **more).model


def logits(model):
    with evaluation_mode(model):
        return model(input_ids=IDS, use_cache=False).logits


def distance(first, second):
    return (first - second).abs().max().item()


def learn(model, steps=5):
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def saved_run(build, directory, config):
    """Save an adapter after a few steps of training and return its logits."""
    model = adapted(build, config)
    learn(model)
    save_adapter(model, directory)
    return logits(model)


@pytest.mark.parametrize("init", [Init.pissa, Init.olora])
@pytest.mark.parametrize("stabilized", [False, True])
def test_initial_offset_trains_like_a_changed_base(build, init, stabilized):
    """PEFT changes the base's weights instead; the loss curve is the same."""
    ours = adapted(build, lora(init=init, rank_stabilized=stabilized))
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=stabilized, target_modules="all-linear", init_lora_weights=init.value,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with silence_peft_warnings():
        theirs = get_peft_model(build("llama"), config)
    expected = learn(theirs)
    assert learn(ours) == pytest.approx(expected, rel=2e-4)
    assert expected[-1] < expected[0] - 0.1


def test_base_is_unchanged_with_the_adapter_disabled(build):
    """KL and comparisons with the base need this; afterwards the same parameters are trained."""
    model = adapted(build, lora(init=Init.pissa))
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    learn(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(build("llama")))
    assert {name for name, value in model.named_parameters() if value.requires_grad} == names
    assert all(".default." in name for name in names)


@pytest.mark.parametrize("init", [Init.pissa, Init.olora, Init.eva, Init.loftq])
def test_inits_are_reproducible(saved, init):
    """A resumed run builds the same initial model and loads the trained tensors of a checkpoint into it."""
    stored = QuantConfig(kind=QuantKind.nf4 if init is Init.loftq else QuantKind.none)

    def begun(own):
        torch.manual_seed(own)
        base = load_model(ModelConfig(path=str(saved)), stored, full=False, device=CPU, compute_dtype=torch.float32)
        rows = [{"input_ids": list(range(3 + i, 40 + i))} for i in range(12)]
        source = ModelConfig(path=str(saved))
        return add_adapter(base, lora(init=init), [2], seed=3, rows=rows, source=source).model

    first, second = begun(0), begun(1)
    learn(first)
    trained = {name: value for name, value in first.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, value in second.named_parameters():
            if value.requires_grad:
                value.copy_(trained[name])
    assert torch.equal(logits(first), logits(second))


def test_top_singular_triples_of_large_matrices():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1100, 1030, generator=generator) @ torch.diag(0.97 ** torch.arange(1030.0))
    u, s, v = top_singular_triples(weight, 8, seed=0)
    exact = torch.linalg.svdvals(weight)[:8]
    assert s.tolist() == pytest.approx(exact.tolist(), rel=1e-4)
    kept = (u * s) @ v
    best = weight.norm().pow(2) - exact.pow(2).sum()
    assert (weight - kept).norm().pow(2).item() == pytest.approx(best.item(), rel=1e-4)


def test_loftq_reduces_the_rounding_error(saved):
    """By hand: the best product of rank 4 for the rounding error, divided by alpha / rank = 2."""
    source = ModelConfig(path=str(saved))
    stored = QuantConfig(kind=QuantKind.nf4)
    base = load_model(source, stored, full=False, device=CPU, compute_dtype=torch.float32)
    model = add_adapter(base, lora(init=Init.loftq), [2], seed=3, source=source).model
    plain = dict(AutoModelForCausalLM.from_pretrained(saved).named_parameters())
    for name, layer in lora_layers(model).items():
        assert quantized_layers(layer.get_base_layer())
        lost = plain[f"{name.removeprefix('base_model.model.')}.weight"] - base_weight(layer)
        a, b = lora_matrices(layer)
        values = torch.linalg.svdvals(lost)
        rest = (lost - 2 * b @ a).norm().item()
        assert rest == pytest.approx(values[4:].norm().item(), rel=1e-4)
        assert rest < 0.97 * lost.norm().item()


def test_eva_uses_leading_directions_of_the_inputs(build):
    """A spans the leading directions of a layer's inputs, computed by hand, and B is 0."""
    rows = [{"input_ids": [1, *range(3 + i, 60 + i), 2]} for i in range(8)]
    model = adapted(build, lora(init=Init.eva), rows=rows)
    base = build("llama")
    inputs = []
    layer = base.model.layers[1].mlp.down_proj
    layer.register_forward_hook(lambda module, given, out: inputs.append(given[0].flatten(0, 1)))
    base(input_ids=torch.tensor([row["input_ids"] for row in rows]))
    centred = inputs[0] - inputs[0].mean(dim=0)
    v = torch.linalg.svd(centred, full_matrices=False).Vh[:4]
    a, b = lora_matrices(lora_layers(model)["base_model.model.model.layers.1.mlp.down_proj"])
    assert torch.equal(b, torch.zeros_like(b))
    assert torch.linalg.svdvals(a @ v.T).min() > 0.95


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "8 training rows have only 0 tokens, too few for 4 directions"),
        ([{"input_ids": [5, 6]}], "8 training rows have only 2 tokens, too few for 4 directions"),
    ],
)
def test_eva_refuses_too_few_rows(build, rows, problem):
    with pytest.raises(SftError) as caught:
        adapted(build, lora(init=Init.eva), rows=rows)
    assert str(caught.value).startswith(f"adapter.init=eva: {problem}\n  fix: ")


def test_start_from_continues_training(build, tmp_path):
    before = saved_run(build, tmp_path / "first", lora(train_stop_token=TrainStopToken.always))
    config = lora(train_stop_token=TrainStopToken.always, start_from=str(tmp_path / "first"))
    model = adapted(build, config)
    assert distance(logits(model), before) < 1e-6
    assert initial_adapter_digests(config).keys() == {"adapter.start_from"}
    assert len(initial_adapter_digests(config)["adapter.start_from"]) == 64
    losses = learn(model)
    assert losses[-1] < losses[0]


def test_start_from_an_exported_pissa_is_a_lora_of_twice_the_rank(build, tmp_path):
    before = saved_run(build, tmp_path / "first", lora(init=Init.pissa))
    config = lora(rank=8, alpha=8.0, start_from=str(tmp_path / "first"))
    assert distance(logits(adapted(build, config)), before) < 1e-5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"rank": 8},
            "adapter.start_from: adapter.rank is 8, but the adapter in {there} has 4\n  fix: adapter.rank=4",
        ),
        (
            {"alpha": 32.0},
            "adapter.start_from: adapter.alpha is 32.0, but the adapter in {there} has 8.0\n  fix: adapter.alpha=8.0",
        ),
        (
            {"dora": True},
            "adapter.start_from: adapter.dora is True, but the adapter in {there} has False\n  fix: adapter.dora=false",
        ),
        (
            {"target_modules": ["q_proj"]},
            "adapter.start_from: the adapter in {there} does not fit: 24 tensors differ, the first is"
            " base_model.model.model.layers.0.mlp.down_proj.lora_A.weight, (4, 192) in the adapter"
            " and missing in the model\n"
            "  fix: train on the same base with the same adapter.target_modules, adapter.modules_to_save and"
            " adapter.train_stop_token as that adapter",
        ),
        (
            {"kind": AdapterKind.oft},
            "adapter.start_from: the adapter in {there} is LORA, but adapter.kind is OFT\n  fix: adapter.kind=lora",
        ),
    ],
)
def test_start_from_refuses_another_adapter(build, tmp_path, config, message):
    there = tmp_path / "first"
    saved_run(build, there, lora())
    with pytest.raises(SftError) as caught:
        adapted(build, lora(**config, start_from=str(there)))
    assert str(caught.value) == message.format(there=there)


def test_start_from_refuses_a_missing_adapter(tmp_path):
    with pytest.raises(SftError) as caught:
        initial_adapter_digests(lora(start_from=f"{tmp_path}/nowhere"))
    assert str(caught.value) == (
        f"adapter.start_from={tmp_path}/nowhere: there is no adapter: adapter_config.json is missing\n"
        "  fix: adapter.start_from=RUN that has finished, or a directory that PEFT wrote (sft runs lists the runs)"
    )


def test_frozen_adapters_are_part_of_the_saved_adapter(build, tmp_path):
    """The exported adapter includes both frozen adapters, one on q_proj and one on two layers."""
    saved_run(build, tmp_path / "one/adapter", lora(rank=3, target_modules=["q_proj"]))
    below = saved_run(build, tmp_path / "two", lora(rank=2, rank_stabilized=True, target_modules=["q_proj", "up_proj"]))
    both = lora(
        target_modules=["q_proj", "down_proj"],
        frozen_adapters=[str(tmp_path / "one"), str(tmp_path / "two")],
        train_stop_token=TrainStopToken.always,
    )
    model = adapted(build, both)
    alone = adapted(build, lora(target_modules=["q_proj"], frozen_adapters=[str(tmp_path / "two")]))
    assert distance(logits(alone), below) < 1e-5
    assert distance(logits(model), below) > 1e-2
    assert {name.split(".")[-2] for name, value in model.named_parameters() if value.requires_grad} <= {
        "default",
        "trainable_tokens_delta",
    }
    losses = learn(model)
    assert losses[-1] < losses[0]
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(build("llama")))
    after = logits(model)
    save_adapter(model, tmp_path / "out", [tmp_path / "one/adapter", tmp_path / "two"])
    opened = load_adapter(build("llama"), tmp_path / "out", CPU)
    assert distance(logits(opened), after) < 1e-5
    assert distance(logits(opened.merge_and_unload()), after) < 1e-4
    listed = json.loads((tmp_path / "out/frozen_adapters.json").read_text())
    assert [one["adapter"] for one in listed] == ["one", "two"]
    assert [one["sha256"] for one in listed] == [
        initial_adapter_digests(both)[f"adapter.frozen_adapters.{number}"] for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lora(dora=True), "it is a DoRA adapter, whose magnitudes cannot be added"),
        (
            lora(train_stop_token=TrainStopToken.always),
            "it has trained embedding rows, which replace those of the base",
        ),
        (lora(modules_to_save=["lm_head"]), "it has whole modules (modules_to_save), which replace those of the base"),
        (
            AdapterConfig(kind=AdapterKind.ia3, target_modules=["k_proj"]),
            "it is IA3, and only LoRA adapters can be added",
        ),
    ],
)
def test_adapters_that_cannot_be_stacked_are_refused(build, tmp_path, config, reason):
    saved_run(build, tmp_path / "one", config)
    with pytest.raises(SftError) as caught:
        adapted(build, lora(frozen_adapters=[str(tmp_path / "one")]))
    assert str(caught.value) == (
        f"adapter.frozen_adapters.0: the adapter in {tmp_path}/one cannot be added to another one: {reason}\n"
        "  fix: merge it first (sft merge RUN) and train on the result: model.path=RUN/merged"
    )


def test_frozen_adapter_of_another_base_is_refused(build, tmp_path):
    saved_run(build, tmp_path / "one", lora(target_modules=["q_proj"]))
    with pytest.raises(SftError) as caught:
        add_adapter(build("gpt2"), lora(frozen_adapters=[str(tmp_path / "one")]), [2], seed=3)
    assert str(caught.value).startswith(
        f"adapter.frozen_adapters.0: the adapter in {tmp_path}/one cannot be loaded onto this base: Target modules"
    )
    assert str(caught.value).endswith("  fix: adapter.frozen_adapters.0=RUN with the same base (sft runs lists them)")
