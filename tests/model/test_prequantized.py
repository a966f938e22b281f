"""Checkpoints that are stored quantized, by hand or by bitsandbytes: loading, training and errors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GptOssConfig, LlamaConfig, RwkvConfig

from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.load import load_model
from sft_cli.model.prequantized import check_quantization
from sft_cli.model.quant import dequantize, evaluation_mode, quantized_layers

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 17, 80, 3, 44, 9, 120, 63, 31]])
PLAIN = "model.path=DIR_OR_HUB_ID of the same model in float32, bfloat16, float16"


def load(path, kind=QuantKind.none, *, full=False, dtype=torch.float32):
    return load_model(ModelConfig(path=str(path)), QuantConfig(kind=kind), full=full, device=CPU, compute_dtype=dtype)


def logits(model):
    with evaluation_mode(model):
        return model(input_ids=IDS).logits.float()


@pytest.fixture(scope="module", params=["nf4", "fp4", "int8"])
def packed(request, saved, tmp_path_factory):
    """A checkpoint as bitsandbytes stores it, the kind, and the directory it was made from."""
    eight = {"load_in_8bit": True}
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": request.param, "bnb_4bit_compute_dtype": torch.bfloat16}
    quantization = BitsAndBytesConfig(**(eight if request.param == "int8" else four))
    directory = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_pretrained(saved, quantization_config=quantization).save_pretrained(directory)
    return directory, QuantKind(request.param), saved


def test_a_checkpoint_of_bitsandbytes_equals_its_source(packed):
    directory, kind, source = packed
    found, expected = load(directory), load(source, kind)
    assert quantized_layers(found).keys() == quantized_layers(expected).keys() != set()
    if kind is QuantKind.int8:  # its scales are rounded to the type of the checkpoint
        torch.testing.assert_close(logits(found), logits(expected), rtol=0, atol=0.02 * logits(expected).abs().max())
        return
    single = load_model(
        ModelConfig(path=str(source)), QuantConfig(kind=kind, double_quant=False), full=False, device=CPU,
        compute_dtype=torch.float32,
    )  # fmt: skip
    assert torch.equal(logits(found), logits(single))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_of_bitsandbytes_computes_in_the_type_of_the_run(packed, dtype):
    """The compute dtype in the checkpoint is ignored."""
    directory, kind, _ = packed
    found = load(directory, dtype=dtype)
    assert {value.dtype for value in found.parameters() if value.is_floating_point()} == {dtype}
    if kind is not QuantKind.int8:
        assert {layer.compute_dtype for layer in quantized_layers(found).values()} == {dtype}
    reference = logits(load(directory))
    torch.testing.assert_close(logits(found), reference, rtol=0, atol=0.1 * reference.abs().max().item())


def test_an_adapter_learns_on_a_checkpoint_of_bitsandbytes(packed):
    model = add_adapter(load(packed[0]), AdapterConfig(rank=4), [], seed=0).model
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_checkpoint_of_bitsandbytes_can_be_dequantized(packed):
    expected = logits(load(packed[0]))
    plain = dequantize(load(packed[0]), torch.float32)
    assert not quantized_layers(plain)
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def llama(directory, intermediate):
    """A Llama whose layers have these sizes, in bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=160, hidden_size=128, intermediate_size=intermediate, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(directory)


def test_fp8_blocks_are_unpacked_while_loading(tmp_path):
    """Blocks of 128 x 128 with a factor each, as DeepSeek and Qwen store them: value = stored x factor."""
    llama(tmp_path, 384)
    expected = dict(load(tmp_path, dtype=torch.bfloat16).named_parameters())
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, wide = tensors[name].shape
        grid = (-(-rows // 128), -(-wide // 128))
        factors = 0.01 * (1 + torch.arange(grid[0] * grid[1]).reshape(grid).float())
        spread = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :wide]
        stored = (tensors[name].float() / spread).to(torch.float8_e4m3fn)
        expected[name] = (stored.float() * spread).to(torch.bfloat16)
        tensors |= {name: stored, name + "_scale_inv": factors}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    described(tmp_path, FP8)
    found = load(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in found.parameters()} == {torch.bfloat16}
    for name, value in found.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=0.01, atol=0)
    model = add_adapter(found, AdapterConfig(rank=4), [], seed=0).model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=IDS, labels=IDS).loss.backward()


def test_fp8_blocks_that_do_not_fill_a_layer_are_refused(tmp_path):
    """transformers would apply the two factors of 192 rows to 96 rows each."""
    llama(tmp_path, 192)
    described(tmp_path, FP8)
    with pytest.raises(SftError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"model.path={tmp_path}: the checkpoint is stored as fp8, and layer model.layers.0.mlp.gate_proj, 192 x 128,"
        f" does not consist of whole blocks of 128 x 128: transformers dequantizes it wrongly\n  fix: {PLAIN}"
    )


def described(directory, stored):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}},
}


@pytest.mark.parametrize(
    ("stored", "problem", "pip"),
    [
        pytest.param(
            GPTQ, "Loading a GPTQ quantized model requires optimum (`pip install optimum`)", "optimum gptqmodel",
            id="gptq",
        ),
        pytest.param(
            AWQ,
            "Loading an AWQ quantized model requires gptqmodel. Please install it with `pip install gptqmodel`",
            "gptqmodel",
            id="awq",
        ),
    ],
)  # fmt: skip
def test_missing_package_is_reported_before_loading(saved, tmp_path, stored, problem, pip):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    described(tmp_path, stored)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(SftError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"model.path={tmp_path}: the checkpoint is stored as {stored['quant_method']}, which cannot be loaded here:"
        f" {problem}\n  fix: pip install {pip}, or {PLAIN}"
    )


@pytest.mark.parametrize(
    "stored", [TENSORS, {"quant_method": "torchao", "quant_type": "int8wo"}, {"quant_method": "hqq"}]
)
def test_other_missing_packages_are_reported(saved, tmp_path, stored):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    described(tmp_path, stored)
    with pytest.raises(SftError) as caught:
        load(tmp_path)
    method = stored["quant_method"]
    assert caught.value.problem.startswith(f"the checkpoint is stored as {method}, which cannot be loaded here: ")
    assert "\n" not in caught.value.problem
    assert caught.value.fix == f"pip install {method}, or {PLAIN}"


def test_unknown_quantization_method_is_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    described(tmp_path, {"quant_method": "squeeze"})
    with pytest.raises(SftError) as caught:
        load(tmp_path)
    assert caught.value.problem.startswith("the checkpoint is stored as squeeze, which cannot be loaded here: ")
    assert caught.value.fix == PLAIN


def test_quantized_checkpoint_is_not_quantized_again(packed):
    with pytest.raises(SftError) as caught:
        load(packed[0], QuantKind.nf4)
    assert str(caught.value) == (
        "quant.kind=nf4: the checkpoint is already quantized, as bitsandbytes\n"
        f"  fix: quant=none keeps its storage, or {PLAIN}"
    )


def test_stored_quantized_weights_are_not_fully_tuned(packed):
    with pytest.raises(SftError) as caught:
        load(packed[0], full=True)
    assert str(caught.value) == (
        f"model.path={packed[0]}: the checkpoint is stored quantized, as bitsandbytes, and quantized weights cannot be"
        f" trained\n  fix: adapter=lora, or {PLAIN}"
    )


def test_mxfp4_experts_are_unpacked_while_loading(tmp_path):
    """Pairs of 4-bit numbers and a power of two for 32 of them, as GPT-OSS is stored; values by hand."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=160, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    expected = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        codes = torch.randint(16, (experts, outputs, inputs // 32, 32))
        scales = torch.randint(120, 130, (experts, outputs, inputs // 32))
        values = numbers[codes] * torch.exp2(scales - 127.0)[..., None]
        expected[name] = values.reshape(experts, outputs, inputs).transpose(1, 2).to(torch.bfloat16)
        tensors[name + "_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[name + "_scales"] = scales.to(torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    described(tmp_path, {"quant_method": "mxfp4"})
    for full in (False, True):
        found = dict(load(tmp_path, full=full, dtype=torch.bfloat16).named_parameters())
        assert {value.dtype for value in found.values()} == {torch.float32 if full else torch.bfloat16}
        assert len(expected) == 2
        for name, values in expected.items():
            assert torch.equal(found[name].to(torch.bfloat16), values)


@pytest.mark.parametrize("kind", [QuantKind.nf4, QuantKind.fp4, QuantKind.int8])
def test_a_model_that_rescales_its_weights_is_not_quantized(kind):
    with pytest.raises(SftError) as refused:
        check_quantization(RwkvConfig(), ModelConfig(path="m"), QuantConfig(kind=kind), full=False)
    assert str(refused.value) == (
        f"quant.kind={kind.value}: rwkv rescales its weights for evaluation, which is impossible if quantized\n"
        "  fix: quant=none"
    )
    check_quantization(RwkvConfig(), ModelConfig(path="m"), QuantConfig(), full=False)


@pytest.mark.parametrize("kind", [QuantKind.nf4, QuantKind.int8])
def test_dequantize_restores_conv1d_layers(tmp_path, kind):
    """GPT-2's weights are (in, out); written as (out, in) they cannot be loaded, or square ones are wrong."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    stored = load(tmp_path / "base", kind)
    expected = logits(stored)

    plain = dequantize(load(tmp_path / "base", kind), torch.float32)
    plain.save_pretrained(tmp_path / "plain")
    for model in (plain, AutoModelForCausalLM.from_pretrained(tmp_path / "plain")):
        assert (logits(model) - expected).abs().max() < (1e-5 if kind is QuantKind.nf4 else 0.05)
