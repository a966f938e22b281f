"""Quantized bases with real bitsandbytes on a CPU: they train, stay frozen, and do not change in an evaluation."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import generation_mode, use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model
from sft_cli.model.quant import dequantize, evaluation_mode, is_repacked, quantized_layers

CPU = torch.device("cpu")
KINDS = [QuantKind.nf4, QuantKind.fp4, QuantKind.int8]


def load(saved, kind, dtype=torch.float32, **changes):
    config = QuantConfig(kind=kind, **changes)
    return load_model(ModelConfig(path=str(saved)), config, full=False, device=CPU, compute_dtype=dtype)


def stored(model):
    """Return copies of the quantized weights and their scales."""
    found = {}
    for name, layer in quantized_layers(model).items():
        found[name] = layer.weight.data.clone()
        found[name + ".scales"] = copy.deepcopy(vars(layer.weight).get("quant_state"))
    return found


def assert_untouched(before, after):
    assert before
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name])
        elif value is not None:
            assert torch.equal(value.absmax, after[name].absmax)
            assert vars(value).keys() == vars(after[name]).keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_changes_only_the_adapter(saved, make_batch, kind, dtype):
    base = load(saved, kind, dtype)
    frozen = {name: value.detach().clone() for name, value in base.named_parameters()}
    model = add_adapter(base, AdapterConfig(rank=8), [], seed=0).model
    weights = stored(model)
    assert len(weights) == 2 * 7 * 2  # two layers of seven projections, and their scales
    assert probe_packing(model).packed_ok
    use_packed_attention(model)
    loss_model, batch = LossModel(model, packed=True, chunk=4), make_batch([6, 5, 9])
    trained = [value for value in model.parameters() if value.requires_grad]
    initial = [value.detach().clone() for value in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(15):
        loss = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]
    assert all(value.dtype == torch.float32 for value in trained)
    assert all(not torch.equal(value, old) for value, old in zip(trained, initial, strict=True))
    assert_untouched(weights, stored(model))
    names = {name.replace("base_model.model.", "").replace("base_layer.", ""): value for name, value in
             model.named_parameters() if not value.requires_grad}  # fmt: skip
    assert names.keys() == frozen.keys()
    assert all(torch.equal(value, names[name]) for name, value in frozen.items())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_mode_keeps_weights(saved, make_batch, kind):
    """The loss in training mode and the stored weights are equal bit for bit before and after."""
    model = add_adapter(load(saved, kind, torch.bfloat16), AdapterConfig(rank=4, dropout=0.5), [], seed=0).model
    for name, value in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that dropout would change nothing
            value.data.fill_(0.05)
    weights, modes = stored(model), [module.training for module in model.modules()]
    use_packed_attention(model)
    loss_model, batch = LossModel(model, packed=True, chunk=4), make_batch([6, 5])

    def train_loss():
        torch.manual_seed(3)  # dropout
        return loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]

    before = train_loss()
    losses = loss_model.token_losses(*batch.row, batch.targets, batch.target_at)
    with generation_mode(model) as lm:
        answer = lm.generate(batch.documents[0][None], max_new_tokens=4, min_new_tokens=4, do_sample=False)
    again = loss_model.token_losses(*batch.row, batch.targets, batch.target_at)

    assert answer.shape == (1, 10)
    assert torch.equal(losses, again)  # dropout is off
    assert torch.equal(before, train_loss())
    assert_untouched(weights, stored(model))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("kind", [QuantKind.nf4, QuantKind.fp4])
def test_plain_evaluation_repacks_weights(saved, make_batch, kind):
    """On CPUs with AVX512-BF16 ``eval()`` changes the weights, and dequantizing refuses them."""
    model, ids = load(saved, kind), make_batch([6]).documents[0][None]
    layers = quantized_layers(model)
    with evaluation_mode(model):
        model(ids)
    assert not any(is_repacked(layer.weight) for layer in layers.values())
    if not next(iter(layers.values())).support_avx512bf16_for_cpu:
        pytest.skip("this CPU has no AVX512-BF16, where bitsandbytes repacks")
    model.eval()
    with torch.no_grad():
        model(ids)

    assert all(is_repacked(layer.weight) for layer in layers.values())
    with pytest.raises(AssertionError, match="was repacked by an evaluation; load the model again"):
        dequantize(model, torch.float32)


@pytest.mark.parametrize(
    ("kind", "double", "tolerance"),
    [
        (QuantKind.nf4, True, 1e-6),
        (QuantKind.nf4, False, 1e-6),
        (QuantKind.fp4, True, 1e-6),
        (QuantKind.int8, True, 1e-5),
    ],
)
def test_dequantize_keeps_the_logits(saved, make_batch, kind, double, tolerance, tmp_path):
    """The result is a plain model that can be saved and loaded without bitsandbytes."""
    ids = make_batch([12]).documents[0][None]
    original = load(saved, kind, double_quant=double)
    with evaluation_mode(original):
        expected = original(ids).logits
    plain = dequantize(load(saved, kind, double_quant=double), torch.float32)
    plain.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        found = opened(ids).logits

    assert not quantized_layers(plain)
    assert "quantization" not in (tmp_path / "config.json").read_text()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def test_quantization_changes_the_weights(saved, make_batch):
    """Guards the tests above against a quantization that did nothing."""
    ids = make_batch([12]).documents[0][None]
    logits = []
    for kind in (QuantKind.none, QuantKind.nf4, QuantKind.fp4, QuantKind.int8):
        model = load(saved, kind)
        with evaluation_mode(model):
            logits.append(model(ids).logits)
    nf4, fp4, int8 = ((other - logits[0]).abs().max() / logits[0].abs().max() for other in logits[1:])
    assert 0.02 < nf4 < 0.6
    assert 0.02 < fp4 < 0.9
    assert 1e-4 < int8 < 0.2 * nf4


def test_evaluation_mode_restores_modes_after_an_error(build):
    model = build("llama")
    model.model.norm.eval()
    modes = [module.training for module in model.modules()]

    def fail():
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [QuantKind.nf4, QuantKind.fp4])
def test_check_4bit_sizes(tmp_path, kind):
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=172, num_hidden_layers=1,
                         num_attention_heads=4)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(SftError) as caught:
        load(tmp_path, kind)
    assert str(caught.value) == (
        f"quant.kind={kind.value}: layer model.layers.0.mlp.gate_proj is 64 x 172;"
        f" {kind.value.upper()} on a CPU needs multiples of 64\n"
        "  fix: quant=none or quant=int8, or a machine with a CUDA device"
    )


def test_quantized_weights_cannot_be_fully_tuned(saved):
    with pytest.raises(SftError) as caught:
        load_model(
            ModelConfig(path=str(saved)), QuantConfig(kind=QuantKind.nf4), full=True, device=CPU,
            compute_dtype=torch.float32,
        )  # fmt: skip
    assert str(caught.value) == (
        "adapter.kind=none, quant.kind=nf4: quantized weights cannot be trained\n  fix: adapter=lora, or quant=none"
    )
