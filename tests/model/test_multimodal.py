"""Vision-language models on text: the language model is trained, and the towers beside it stay as they were."""

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForImageTextToText

from sft_cli.config.adapter_schema import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, open_adapter, peft_quietly
from sft_cli.model.attention.documents import documents
from sft_cli.model.attention.packing import use_own
from sft_cli.model.head.loss_model import packed_loss_model
from sft_cli.model.language import beside_language, within
from sft_cli.model.load import load_config, load_model

CPU = torch.device("cpu")
TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.1, "max_position_embeddings": 512,
}  # fmt: skip
MIXED = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
TOWER = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
IDS = {"image_token_id": 300, "video_token_id": 303, "vision_start_token_id": 301, "vision_end_token_id": 302}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
KINDS = {
    "gemma3": {
        "text_config": {**TEXT, **MIXED}, "vision_config": TOWER, "mm_tokens_per_image": 4, "image_token_index": 300,
        "boi_token_index": 301, "eoi_token_index": 302,
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 32}, "image_token_index": 300,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_scaling": MROPE},
        "vision_config": {"depth": 1, "embed_dim": 64, "hidden_size": 64, "num_heads": 2}, **IDS,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_scaling": MROPE}, "vision_config": {**QWEN, "fullatt_block_indexes": [0]}, **IDS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_scaling": {**MROPE, "mrope_interleaved": True}},
        "vision_config": {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}, **IDS,
    },
}  # fmt: skip


@pytest.fixture(params=KINDS)
def stored(request, tmp_path):
    """The directory of a small random model of each type."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **KINDS[request.param])
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def opened(stored, *, full=False, kind=QuantKind.none):
    """The model as a run loads it."""
    model = ModelConfig(path=str(stored))
    return load_model(model, QuantConfig(kind=kind), full=full, device=CPU, compute_dtype=torch.float32)


def row():
    """Two documents of one row, as ``LossModel`` takes them."""
    lengths = (9, 6)
    ids = torch.randint(3, 290, (1, 15), generator=torch.Generator().manual_seed(1))
    at = torch.tensor([*range(8), *range(9, 14)])
    laid = documents(lengths)
    return ids, laid.positions, laid, ids[0, at + 1], at, torch.full((len(at),), 1 / len(at))


def plain_loss(model, ids):
    """The mean loss of the same two documents, each alone, by transformers itself."""
    parts = [model(input_ids=part[None], use_cache=False).logits[0, :-1] for part in ids[0].split((9, 6))]
    targets = torch.cat([part[1:] for part in ids[0].split((9, 6))])
    return cross_entropy(torch.cat(parts).float(), targets).item()


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj", "o_proj"]])
def test_one_step_trains_the_language_model_alone_and_the_merged_model_loads_again(stored, tmp_path, targets):
    base = opened(stored)
    own, beside = type(base), beside_language(base)
    expected = plain_loss(base, row()[0])

    made = add_adapter(base, AdapterConfig(kind=AdapterKind.lora, target_modules=targets, rank=4), [], seed=0)
    loss_model, probed = packed_loss_model(made.model, 64)
    assert probed.packed_ok
    trained = [value for value in made.model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    losses = []
    for _ in range(2):
        loss = loss_model(*row())["loss"]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert losses[1] < losses[0]

    names = [name.removeprefix("base_model.model.") for name, _ in made.model.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 2 * (7 if targets == ["all-linear"] else 3)
    assert not [name for name in names if within(name, beside)]
    assert made.notes == (f"the language model alone is trained: {', '.join(beside)} stay frozen and get no adapter",)

    use_own(made.model)
    made.model.save_pretrained(tmp_path / "adapter")
    tuned = plain_loss(made.model, row()[0])
    again = open_adapter(opened(stored), tmp_path / "adapter", CPU)
    assert plain_loss(again, row()[0]) == pytest.approx(tuned, abs=1e-5)
    with peft_quietly():
        whole = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(stored), tmp_path / "adapter")
    assert plain_loss(whole, row()[0]) == pytest.approx(tuned, abs=1e-5)

    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert type(merged) is own
    assert plain_loss(merged, row()[0]) == pytest.approx(tuned, abs=1e-5)
    before = dict(opened(stored).named_parameters())
    for name, value in merged.named_parameters():
        assert not within(name, beside) or torch.equal(value, before[name])


def test_full_training_and_quantisation_leave_what_lies_beside_the_language_model(stored):
    base = opened(stored, full=True)
    beside = beside_language(base)
    add_adapter(base, AdapterConfig(kind=AdapterKind.none), [], seed=0)
    frozen = {name for name, value in base.named_parameters() if not value.requires_grad}
    assert frozen
    assert frozen == {name for name, _ in base.named_parameters() if within(name, beside)}

    small = opened(stored, kind=QuantKind.int8)
    kinds = {type(layer).__name__ for name, layer in small.named_modules() if within(name, beside)}
    assert "Linear8bitLt" not in kinds
    assert type(small.get_decoder().layers[0].mlp.up_proj).__name__ == "Linear8bitLt"


def test_a_name_that_only_the_vision_tower_has_is_refused(stored):
    base = opened(stored)
    tower = beside_language(base)[0]
    layers = [name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear)]
    first = next(name for name in layers if within(name, [tower]))
    sentence = f"names {first}, which lies beside the language model: text alone cannot train it"
    for key in ("target_modules", "modules_to_save"):
        with pytest.raises(SftError) as caught:
            add_adapter(base, AdapterConfig(kind=AdapterKind.lora, **{key: [first]}), [], seed=0)
        assert (caught.value.where, sentence in caught.value.problem) == (f"adapter.{key}", True)
    with pytest.raises(SftError) as caught:
        add_adapter(base, AdapterConfig(kind=AdapterKind.none, train=[rf"^{tower}\."]), [], seed=0)
    assert "which lies beside the language model" in caught.value.problem


def test_a_vision_language_model_that_is_not_proven_is_refused_by_name(tmp_path):
    AutoConfig.for_model("llava").save_pretrained(tmp_path)
    with pytest.raises(SftError) as caught:
        load_config(ModelConfig(path=str(tmp_path)))
    assert caught.value.problem == (
        "model type llava is a vision-language model whose language model cannot be trained alone here"
    )
