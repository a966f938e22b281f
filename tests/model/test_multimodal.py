"""Multimodal models on text: only the language model is trained, and the towers do not change."""

from importlib.util import find_spec

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, load_adapter, silence_peft_warnings
from sft_cli.model.attention.packing import use_default_attention
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.model.language_model import (
    auto_class,
    check_separable,
    check_trains_on_text,
    is_inside,
    non_language_modules,
)
from sft_cli.model.load import empty_model, load_model
from tests.towers import TEXT, TOWER, TOWERS, built, saved

CPU = torch.device("cpu")


@pytest.fixture(params=TOWERS, scope="module")
def stored(request, tmp_path_factory):
    """The directory of a small random model of each type."""
    directory = tmp_path_factory.mktemp(request.param)
    saved(request.param, directory)
    return directory


def opened(stored, *, full=False, kind=QuantKind.none):
    """Load a model as a run does."""
    model = ModelConfig(path=str(stored))
    return load_model(model, QuantConfig(kind=kind), full=full, device=CPU, compute_dtype=torch.float32)


def row():
    """Return two documents of one row as arguments of ``LossModel``."""
    lengths = (9, 6)
    ids = torch.randint(3, 290, (1, 15), generator=torch.Generator().manual_seed(1))
    at = torch.tensor([*range(8), *range(9, 14)])
    batch = pack_row(lengths)
    return ids, batch.positions, batch, ids[0, at + 1], at, torch.full((len(at),), 1 / len(at))


def plain_loss(model, ids):
    """Return the mean loss of the same two documents, each alone, by plain transformers."""
    parts = [model(input_ids=part[None], use_cache=False).logits[0, :-1] for part in ids[0].split((9, 6))]
    targets = torch.cat([part[1:] for part in ids[0].split((9, 6))])
    return cross_entropy(torch.cat(parts).float(), targets).item()


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj", "o_proj"]])
def test_one_step_trains_only_the_language_model_and_the_merged_model_loads(stored, tmp_path, targets):
    base = opened(stored)
    own, frozen_modules = type(base), non_language_modules(base)
    expected = plain_loss(base, row()[0])

    adapted = add_adapter(base, AdapterConfig(kind=AdapterKind.lora, target_modules=targets, rank=4), [], seed=0)
    loss_model, probed = build_loss_model(adapted.model, 64)
    assert probed.packed_ok
    trained = [value for value in adapted.model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    losses = []
    for _ in range(2):
        loss = loss_model(*row())["loss"]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert losses[1] < losses[0]

    names = [name.removeprefix("base_model.model.") for name, _ in adapted.model.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 2 * (7 if targets == ["all-linear"] else 3)
    assert not [name for name in names if is_inside(name, frozen_modules)]
    assert adapted.notes == (
        f"only the language model is trained: {', '.join(frozen_modules)} stay frozen and get no adapter",
    )

    use_default_attention(adapted.model)
    adapted.model.save_pretrained(tmp_path / "adapter")
    tuned = plain_loss(adapted.model, row()[0])
    again = load_adapter(opened(stored), tmp_path / "adapter", CPU)
    assert plain_loss(again, row()[0]) == pytest.approx(tuned, abs=1e-5)
    with silence_peft_warnings():
        whole = PeftModel.from_pretrained(own.from_pretrained(stored), tmp_path / "adapter")
    assert plain_loss(whole, row()[0]) == pytest.approx(tuned, abs=1e-5)

    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = own.from_pretrained(tmp_path / "merged")
    assert type(merged) is own
    assert plain_loss(merged, row()[0]) == pytest.approx(tuned, abs=1e-5)
    before = dict(opened(stored).named_parameters())
    for name, value in merged.named_parameters():
        assert not is_inside(name, frozen_modules) or torch.equal(value, before[name])


def test_full_training_and_quantization_do_not_change_the_towers(stored):
    base = opened(stored, full=True)
    frozen_modules = non_language_modules(base)
    add_adapter(base, AdapterConfig(kind=AdapterKind.none), [], seed=0)
    frozen = {name for name, value in base.named_parameters() if not value.requires_grad}
    assert frozen
    assert frozen == {name for name, _ in base.named_parameters() if is_inside(name, frozen_modules)}

    small = opened(stored, kind=QuantKind.int8)
    kinds = {type(layer).__name__ for name, layer in small.named_modules() if is_inside(name, frozen_modules)}
    assert "Linear8bitLt" not in kinds
    assert type(small.get_decoder().layers[0].mlp.up_proj).__name__ == "Linear8bitLt"


def test_a_target_in_the_vision_tower_is_refused(stored):
    base = opened(stored)
    tower = non_language_modules(base)[0]
    layers = [name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear)]
    first = next(name for name in layers if is_inside(name, [tower]))
    sentence = f"names {first}, which text does not train: it is not part of the language model"
    for key in ("target_modules", "modules_to_save"):
        with pytest.raises(SftError) as caught:
            add_adapter(base, AdapterConfig(kind=AdapterKind.lora, **{key: [first]}), [], seed=0)
        assert (caught.value.where, sentence in caught.value.problem) == (f"adapter.{key}", True)
    with pytest.raises(SftError) as caught:
        add_adapter(base, AdapterConfig(kind=AdapterKind.none, train=[rf"^{tower}\."]), [], seed=0)
    assert "it is not part of the language model" in caught.value.problem


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_packed_rows_with_three_position_axes_have_the_loss_of_separate_rows(kind):
    model = built(kind).train()
    lengths, generator = (9, 4, 13), torch.Generator().manual_seed(2)
    rows = [torch.randint(3, 290, (length,), generator=generator) for length in lengths]
    alone = [cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:]).item() for row in rows]
    loss_model, probed = build_loss_model(model, 64)
    assert probed.packed_ok

    batch, ids = pack_row(lengths), torch.cat(rows)
    starts = [0, 9, 13]
    for start, length, expected in zip(starts, lengths, alone, strict=True):
        at = torch.arange(start, start + length - 1)
        weights = torch.full((length - 1,), 1 / (length - 1))
        packed = loss_model(ids[None], batch.positions, batch, ids[at + 1], at, weights)["loss"].item()
        assert packed == pytest.approx(expected, abs=1e-5)


def test_embedding_and_tied_head_of_the_language_model_train_and_merge(tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2_5_vl", **TOWERS["qwen2_5_vl"], tie_word_embeddings=True)
    config.get_text_config().tie_word_embeddings = True
    auto_class(config).from_config(config).save_pretrained(tmp_path)
    base = opened(tmp_path)
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    adapter = AdapterConfig(kind=AdapterKind.lora, target_modules=["embed_tokens", "q_proj"], rank=4)
    names = [name for name, _ in add_adapter(base, adapter, [], seed=0).model.named_parameters() if "lora_" in name]
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} == {"embed_tokens", "q_proj"}
    assert not [name for name in names if "visual" in name]


def test_auto_class_follows_the_architectures():
    config = AutoConfig.for_model("qwen3_5")
    assert auto_class(config) is AutoModelForCausalLM
    config.architectures = ["Qwen3_5ForConditionalGeneration"]
    assert auto_class(config) is AutoModelForImageTextToText
    assert auto_class(AutoConfig.for_model("voxtral")) is AutoModelForMultimodalLM
    assert auto_class(AutoConfig.for_model("gemma3")) is AutoModelForCausalLM


@pytest.mark.parametrize("kind", [AdapterKind.ia3, AdapterKind.prompt, AdapterKind.prefix])
def test_other_adapters_train_no_tower(kind):
    base = built("llava")
    frozen_modules = non_language_modules(base)
    model = add_adapter(base, AdapterConfig(kind=kind), [], seed=0).model
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert not [name for name in trained if is_inside(name.removeprefix("base_model.model."), frozen_modules)]


def test_llama_adapter_of_a_multimodal_family_is_refused():
    with pytest.raises(SftError) as caught:
        add_adapter(built("llava"), AdapterConfig(kind=AdapterKind.llama_adapter), [], seed=0)
    assert caught.value.problem == "it exists for gpt2, llama, mistral, but the model is a llava"


def test_bidirectional_prompt_is_refused():
    text = {**TEXT, "model_type": "gemma"}
    vision = {**TOWER, "model_type": "siglip_vision_model"}
    config = AutoConfig.for_model("paligemma", text_config=text, vision_config=vision, image_token_index=300)
    torch.manual_seed(0)
    with pytest.raises(SftError) as caught:
        check_trains_on_text(auto_class(config).from_config(config), "model.path=x")
    assert caught.value.problem == (
        "the language model inside model type paligemma cannot be trained on text: it reads prompts in both"
        " directions, but training predicts each token from those before it"
    )


@pytest.mark.parametrize(
    ("kind", "part"), [("git", "git.image_encoder"), ("idefics", "vision_config"), ("kyutai_speech_to_text", "codec")]
)
def test_inseparable_towers_are_refused(kind, part):
    with pytest.raises(SftError) as caught:
        check_separable(empty_model(AutoConfig.for_model(kind), trust_remote_code=False), "model.path=x")
    assert f"model type {kind} cannot be trained on text: its part {part}" in caught.value.problem


@pytest.mark.parametrize("kind", ["blt", "moshi"])
def test_text_model_of_several_models_has_no_towers(kind):
    check_separable(empty_model(AutoConfig.for_model(kind), trust_remote_code=False), "model.path=x")


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_missing_tower_library_is_refused_with_its_pip_command():
    with pytest.raises(SftError) as caught:
        empty_model(AutoConfig.for_model("gemma3n"), trust_remote_code=False)
    assert caught.value.where == "model type gemma3n"
    # Without Pillow, transformers names that first.
    assert caught.value.fix == f"pip install {'timm' if find_spec('PIL') else 'pillow'}"
