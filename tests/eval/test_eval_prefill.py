"""Packed prompts: the same answers as padded ones, each common beginning computed once, and who cannot have them."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
)

from sft_cli.distributed.process_group import World
from sft_cli.eval.engine import prefill
from sft_cli.eval.engine.prefill import GrowingLayer, can_pack_prompts, packed_cache
from sft_cli.eval.engine.sampling import Sampling
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.model.attention.packing import PACKED, use_packed_attention
from tests.eval.conftest import SIZES, tiny, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT reads it
PREFIX = list(range(50, 62))
PROMPTS = [[7], *([*PREFIX, *range(5 + row, 6 + 3 * row)] for row in range(6)), PREFIX, [9, 8, 7], [*PREFIX, 5]]
SEEDS = list(range(len(PROMPTS)))
FAMILIES = ["llama", "qwen2", "qwen3", "gemma3", "mistral-window", "gpt2"]


def build_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "qwen3":
        return AutoModelForCausalLM.from_config(Qwen3Config(**SIZES, head_dim=16)).eval()
    if family == "gemma3":
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
        options = {"head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": False}
        config = Gemma3TextConfig(**SIZES, **layers, **options)
        return AutoModelForCausalLM.from_config(config).eval()
    return tiny(family).eval()


def answers(model, batch_size: int, prompts=PROMPTS, stops=(2,), length: int = 12, **options) -> list[tuple[int, ...]]:
    settings = GenerationSettings(tuple(stops), length, batch_size, **options)
    found = {}
    for batch, generated in answer_batches(model, prompts, settings, seeds=SEEDS, pad_id=0, world=World()):
        found |= dict(zip(batch, (answer.ids for answer in generated), strict=True))
    return [found[index] for index in range(len(prompts))]


def packed_rows(monkeypatch) -> list[int]:
    """Return the numbers of prompts of each packed cache from now on."""
    calls = []

    def record(model, prompts, **options):
        calls.append(len(prompts))
        return packed_cache(model, prompts, **options)

    monkeypatch.setattr("sft_cli.eval.generate.packed_cache", record)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [None, Sampling(1.5, 0.9)], ids=["greedy", "sampled"])
def test_answers_to_packed_prompts_equal_those_to_padded_ones(family, sampling, monkeypatch):
    model = build_model(family)
    first = answers(model, 16, sampling=sampling)
    stops = (2, first[1][2], first[4][5])
    expected = answers(model, 16, stops=stops, sampling=sampling)
    assert len({len(ids) for ids in expected}) > 1, "some answers stop, others do not"
    use_packed_attention(model)
    calls = packed_rows(monkeypatch)
    for batch_size, share in ((16, True), (16, False), (1, True)):
        found = answers(model, batch_size, stops=stops, sampling=sampling, share_prefixes=share)
        assert found == expected
    assert calls == [10, 10, *[1] * 10]
    assert model.config._attn_implementation == PACKED


def test_long_answers_outgrow_the_blocks_of_the_cache(monkeypatch):
    monkeypatch.setattr(prefill, "BLOCK", 4)
    model = build_model("llama")
    expected = answers(model, 16, length=60)
    assert max(map(len, expected)) == 60
    use_packed_attention(model)
    assert answers(model, 16, length=60, share_prefixes=True) == expected


def test_rows_of_few_tokens_hold_the_prompts_of_a_batch(monkeypatch):
    model = build_model("gemma3")
    expected = answers(model, 16)
    use_packed_attention(model)
    monkeypatch.setattr("sft_cli.eval.generate.TOKENS_PER_BATCH", {"cpu": 16})
    shapes = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape)))
    assert answers(model, 16, share_prefixes=True) == expected
    rows = [shape for shape in shapes if shape[1] > 1]
    assert len(rows) > 2
    assert {shape[0] for shape in rows} == {1}
    assert next(shape for shape in shapes if shape[1] == 1) == (10, 1), "one batch, though it has several rows"


def test_a_common_beginning_is_computed_once():
    model = build_model("llama")
    use_packed_attention(model)
    computed = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: computed.append(args[0].numel()))
    prompts = [(*PREFIX, 5 + row, 6, 7) for row in range(4)]
    for share in (True, False):
        packed_cache(model, [*prompts, prompts[0]], max_tokens=2048, share_prefixes=share)
        use_packed_attention(model)
    assert computed == [12 + 4 * 2, 4 * 14]


def test_stop_texts_end_answers_to_packed_prompts(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = build_model("llama")
    texts = [tokenizer.decode([id]) for ids in answers(model, 16)[:4] for id in ids[3:5]]
    stops = tuple({text for text in texts if text.isascii() and text.isprintable() and text})
    assert stops
    options = {"stop_texts": stops, "tokenizer": tokenizer}
    expected = answers(model, 16, **options)
    use_packed_attention(model)
    assert answers(model, 16, share_prefixes=True, **options) == expected


def test_an_adapter_is_in_packed_prompts():
    model = get_peft_model(build_model("llama"), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))
    base = answers(model, 16)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    expected = answers(model.eval(), 16)
    assert expected != base
    use_packed_attention(model)
    assert can_pack_prompts(model)
    assert answers(model, 16, share_prefixes=True) == expected


def test_models_that_cannot_be_packed_pad_their_prompts(monkeypatch):
    def vectors(kind):
        return get_peft_model(build_model("llama"), kind(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)).eval()

    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    by_length = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=dynamic)).eval()
    use_packed_attention(by_length)
    calls = packed_rows(monkeypatch)
    for model in (build_model("llama"), vectors(PromptTuningConfig), vectors(PrefixTuningConfig), by_length):
        assert not can_pack_prompts(model)
        assert answers(model, 16, share_prefixes=True) == answers(model, 1)
    assert calls == []


def test_the_context_limit_shortens_answers_to_packed_prompts():
    model = build_model("llama")
    prompts = [[5 + index % 90 for index in range(length)] for length in (120, 126, 128, 140, 4)]
    expected = answers(model, 16, prompts)
    use_packed_attention(model)
    assert [len(ids) for ids in expected[1:4]] == [2, 0, 0]
    assert answers(model, 16, prompts) == expected


def test_a_growing_layer_keeps_what_is_selected(monkeypatch):
    monkeypatch.setattr(prefill, "BLOCK", 2)
    layer, states = GrowingLayer(), torch.randn(3, 2, 9, 4)
    for position in range(9):
        keys, values = layer.update(states[:, :, position : position + 1], -states[:, :, position : position + 1])
        assert torch.equal(keys, states[:, :, : position + 1])
        assert torch.equal(values, -states[:, :, : position + 1])
        if position == 4:
            layer.batch_select_indices(torch.tensor([2, 0]))
            states = states[[2, 0]]
    assert layer.get_seq_length() == 9
