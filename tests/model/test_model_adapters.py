"""Adapters: trained parameters, dtypes and seeds; untrained stop rows."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, silence_peft_warnings
from sft_cli.model.adapter.stop_token_rows import is_untrained_row, untrained_stop_tokens
from sft_cli.model.attention.packing import generation_mode, use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.quant import causal_lm
from tests.model.helpers import recompute_all

STORIES = Path(__file__).parents[3] / "shared/material/models/stories260k"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="the real model is not here")


def trained_names(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_all_linear_adapts_every_projection_except_the_head(build):
    report = add_adapter(build("llama"), AdapterConfig(rank=4), [2], seed=0)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained_names(report.model)}

    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    widths = 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 192)
    assert report.trainable == 2 * 4 * widths
    assert report.stop_tokens == ()


def test_target_modules_adapt_named_layers_only(build):
    report = add_adapter(build("llama"), AdapterConfig(target_modules=["q_proj", "mlp.up_proj"]), [], seed=0)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained_names(report.model)} == {"q_proj", "up_proj"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_weights_are_float32(build, dtype):
    config = AdapterConfig(train_stop_token=TrainStopToken.always)
    model = add_adapter(build("llama").to(dtype), config, [2], seed=0).model
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
    assert {value.dtype for value in model.parameters() if not value.requires_grad} == {dtype}


def test_recomputation_needs_no_gradient_of_the_frozen_embedding(build):
    """transformers makes the embedding's output require one, which non-reentrant checkpointing does not need."""
    model = add_adapter(build("llama"), AdapterConfig(), [], seed=0).model
    recompute_all(model)
    lm = causal_lm(model)
    assert lm.base_model.layers[0].gradient_checkpointing
    assert not lm.get_input_embeddings()(torch.tensor([[1, 2]])).requires_grad


def test_the_adapter_depends_only_on_the_seed(build):
    """The global generator is neither used nor advanced."""
    models = []
    for seed, own in ((5, 0), (5, 1), (6, 0)):
        base = build("llama")
        torch.manual_seed(own)
        state = torch.get_rng_state()
        models.append(add_adapter(base, AdapterConfig(), [], seed=seed).model)
        assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (torch.cat([value.flatten() for value in model.parameters() if value.requires_grad])
                          for model in models)  # fmt: skip
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_unknown_target_module_is_refused(build):
    with pytest.raises(SftError) as caught:
        add_adapter(build("llama"), AdapterConfig(target_modules=["q_proj", "w_proj"]), [], seed=0)
    assert str(caught.value) == (
        "adapter.target_modules: 'w_proj' matches no layer of this model; there are down_proj, embed_tokens, "
        "gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj\n"
        "  fix: adapter.target_modules=[v_proj] is the nearest, or [all-linear] alone"
    )


@pytest.mark.parametrize(("family", "copies"), [("llama", 2), ("llama-tied", 1)])
def test_trained_stop_rows(build, family, copies, tmp_path):
    """In both matrices if they are untied; the saved adapter gives the same logits."""
    config = AdapterConfig(rank=4, train_stop_token=TrainStopToken.always)
    report = add_adapter(build(family), config, [7, 2], seed=0)
    rows = [value for name, value in report.model.named_parameters() if "trainable_tokens_delta" in name]
    assert report.stop_tokens == (2, 7)
    assert [tuple(value.shape) for value in rows] == [(2, 128)] * copies
    for value in report.model.parameters():
        if value.requires_grad:
            value.data += 0.1
    report.model.save_pretrained(tmp_path, save_embedding_layers=False)
    with silence_peft_warnings():
        opened = PeftModel.from_pretrained(build(family), tmp_path)
    ids = torch.tensor([[3, 2, 7, 9]])
    with torch.no_grad():
        torch.testing.assert_close(opened(ids).logits, report.model(ids).logits)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gpt2"])
def test_untrained_stop_tokens_of_a_random_model(build, family):
    model = build(family)
    assert untrained_stop_tokens(model, range(model.config.vocab_size - 1)[1:]) == []


def spoiled(rows, edit):
    """Return a random ``(64, 32)`` matrix after ``edit``."""
    matrix = torch.randn(rows, 32, generator=torch.Generator().manual_seed(0))
    edit(matrix)
    return matrix


@pytest.mark.parametrize(
    ("edit", "untrained"),
    [
        pytest.param(lambda matrix: None, False, id="random"),
        pytest.param(lambda matrix: matrix[2].zero_(), True, id="zero"),
        pytest.param(lambda matrix: matrix[:9].copy_(matrix[2] + 1e-3 * matrix[:9]), True, id="one-of-nine-alike"),
        pytest.param(lambda matrix: matrix[:8].copy_(matrix[2] + 1e-3 * matrix[:8]), False, id="one-of-eight-alike"),
        pytest.param(lambda matrix: matrix[3:20].copy_(matrix[3:4].clone()), False, id="others-alike"),
        pytest.param(lambda matrix: matrix[:30].mul_(1e-3), True, id="shrunk-bulk"),
        pytest.param(lambda matrix: matrix.add_(50.0), False, id="common-offset"),
        pytest.param(lambda matrix: matrix.mul_(1e-4), False, id="scale-does-not-matter"),
    ],
)
def test_untrained_stop_tokens(edit, untrained):
    assert is_untrained_row(spoiled(64, edit), 2) is untrained


def test_untrained_stop_tokens_in_an_untied_head(build):
    model = build("llama")
    model.lm_head.weight.data[100:] = 0.5
    assert untrained_stop_tokens(model, [2, 120]) == [120]


@pytest.mark.material
@needs_stories
def test_untrained_stop_tokens_of_stories260k():
    """Id 2 is one of many nearly equal unused rows; words and the start token are not."""
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    words = sorted(set(tokenizer("Once upon a time there was a little girl named Lily.").input_ids))

    assert len(words) > 8
    assert untrained_stop_tokens(model, [2]) == [2]
    assert untrained_stop_tokens(model, words) == []


def memorize(choice):
    """Train LoRA on 16 rows of stories260k; return the last loss per token and the number of reproduced rows."""
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    generator = torch.Generator().manual_seed(0)
    prompts = [[1, 403 + row, 410] for row in range(16)]
    answers = [[*torch.randint(300, 500, (5,), generator=generator).tolist(), 2] for _ in range(16)]
    config = AdapterConfig(rank=16, alpha=32.0, train_stop_token=choice)
    report = add_adapter(model, config, [2], seed=0)
    use_packed_attention(report.model)
    loss_model = LossModel(report.model, packed=True, chunk=1024)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = torch.tensor([token for pair in zip(prompts, answers, strict=True) for part in pair for token in part])
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    at = torch.cat([torch.arange(start + 2, end - 1) for start, end in pairwise(bounds)])
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    row = (ids[None], positions, pack_row(lengths), ids[at + 1], at)
    optimizer = torch.optim.AdamW([value for value in report.model.parameters() if value.requires_grad], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    loss = torch.zeros(())
    for _ in range(300):
        loss = loss_model(*row, torch.full((len(at),), 1 / len(at)))["loss"]
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with generation_mode(report.model) as lm:
        written = lm.generate(torch.tensor(prompts), max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0)
    right = sum(own == answer for own, answer in zip(written[:, 3:].tolist(), answers, strict=True))
    return report.stop_tokens, loss.item(), right


@pytest.mark.slow
@pytest.mark.material
@needs_stories
def test_lora_learns_to_stop_only_with_trained_stop_rows():
    rows, loss, right = memorize(TrainStopToken.auto)
    assert rows == (2,)
    assert loss < 0.01
    assert right == 16
    rows, loss, right = memorize(TrainStopToken.never)
    assert rows == ()
    assert loss > 0.1
    assert right < 16
