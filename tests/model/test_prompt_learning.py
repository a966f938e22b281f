"""Prefix tuning, prompt tuning and LLaMA-Adapter: results, training, saving, loading and generation."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import DeepseekV3Config, MambaConfig, Qwen3NextConfig

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind, VirtualTokensConfig
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.eval.generate import generate_answers
from sft_cli.model.adapter import prompt_learning
from sft_cli.model.adapter.add import silence_peft_warnings
from sft_cli.model.attention.packing import packed_row_arguments, use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.load import empty_model, load_model
from sft_cli.model.quant import evaluation_mode

CPU = torch.device("cpu")
PREFIX, PROMPT, LLAMA = AdapterKind.prefix, AdapterKind.prompt, AdapterKind.llama_adapter
IDS = torch.tensor([[5, 17, 80, 3, 44, 9, 120, 63, 31]])


def config(kind, tokens=4, **values):
    return AdapterConfig(kind=kind, virtual=VirtualTokensConfig(tokens=tokens, **values))


def adapted(base, kind, text_ids=(), **values):
    torch.manual_seed(0)
    with silence_peft_warnings():
        model = get_peft_model(base, prompt_learning.virtual_tokens_config(base, config(kind, **values)))
    prompt_learning.initialize_virtual_tokens(model, kind, 0, text_ids)
    prompt_learning.cast_trained_to_float32(model)
    return model


def opened_on(base, directory):
    with silence_peft_warnings():
        model = PeftModel.from_pretrained(base, str(directory))
    prompt_learning.restore_float32(model, directory)
    return model


def logits(model, ids=IDS):
    """Return the logits of the tokens, without those of the vectors."""
    with evaluation_mode(model):
        return model(input_ids=ids).logits[:, -ids.shape[1] :]


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "mistral-window", "gemma2", "gpt2"])
@pytest.mark.parametrize("kind", [PREFIX, PROMPT])
def test_virtual_tokens_are_initialized_from_the_text(build, family, kind):
    """The logits equal those with the text itself before the example."""
    base, text = build(family), [9, 8, 7]
    with evaluation_mode(base):
        expected = base(input_ids=torch.cat([torch.tensor([[9, 8, 7, 9]]), IDS], dim=1)).logits[:, 4:]
    found = logits(adapted(base, kind, text))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", [PREFIX, PROMPT])
def test_virtual_tokens_without_a_text_follow_the_seed(build, kind):
    first, again = (logits(adapted(build("llama"), kind)) for _ in range(2))
    other = adapted(build("llama"), kind)
    prompt_learning.initialize_virtual_tokens(other, kind, 1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, logits(other), atol=1e-2)


def test_llama_adapter_starts_with_a_closed_gate(build):
    base = build("llama")
    assert torch.equal(logits(base), logits(adapted(base, LLAMA)))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *[
            (family, kind)
            for family in ("llama", "qwen2", "mistral-window", "gemma2", "gpt2")
            for kind in (PREFIX, PROMPT)
        ],
        *[(family, LLAMA) for family in ("llama", "mistral-window", "gpt2")],
    ],
)
def test_virtual_tokens_train_save_load_and_generate(build, tmp_path, family, kind):
    """The base is unchanged, the loaded adapter gives the same logits bit for bit, and generation uses it."""
    base = build(family)
    before = {name: value.detach().clone() for name, value in base.named_parameters()}
    model = adapted(base, kind)
    prompt_learning.check_vectors_take_effect(model)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    losses = []
    for _ in range(20):
        loss = cross_entropy(model(input_ids=IDS).logits[0, -9:-1], IDS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    after = dict(build(family).named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())

    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    opened = opened_on(build(family), tmp_path)
    assert torch.equal(logits(model), logits(opened))

    own = opened.get_base_model().prepare_inputs_for_generation
    with evaluation_mode(opened), prompt_learning.generating_with_vectors(opened) as lm:
        answer = lm.generate(
            input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=5, do_sample=False, eos_token_id=None
        )
    assert opened.get_base_model().prepare_inputs_for_generation == own
    ids = IDS
    for _ in range(5):
        ids = torch.cat([ids, logits(opened, ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    assert answer.tolist() == ids.tolist()
    assert not torch.allclose(logits(opened), logits(build(family)), atol=1e-2)


@pytest.mark.parametrize("kind", [PREFIX, PROMPT, LLAMA])
def test_batched_generation_equals_single_prompts(build, kind):
    """Answers do not depend on other prompts; the vectors take four of 20 positions."""
    base = build("llama")
    base.config.max_position_embeddings = 20
    model, prompts = adapted(base, kind, [9, 8, 7]), [[5, 17, 80], [3, 44, 9, 120, 63], [31, 5], [7, 8, 9], [4] * 14]
    settings = {"stop_ids": [2], "pad_id": 0, "max_new_tokens": 6}
    together = generate_answers(model, prompts, batch_size=4, **settings)
    alone = [generate_answers(model, [prompt], batch_size=1, **settings)[0] for prompt in prompts]
    assert together == alone
    assert len(together[-1].ids) == (6 if kind is LLAMA else 2)
    assert (together == generate_answers(base, prompts, batch_size=4, **settings)) is (kind is LLAMA)


def test_llama_adapter_is_packed(build):
    """With an open gate, so that its vectors have an effect, three documents in a row equal each alone."""
    model = adapted(build("llama"), LLAMA)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("adaption_gate"):
                value.fill_(0.5)
    parts = [IDS[:, :4], IDS[:, 4:], IDS]
    alone = torch.cat([logits(model, part) for part in parts], dim=1)
    assert probe_packing(model).packed_ok
    use_packed_attention(model)
    with evaluation_mode(model):
        packed = model(input_ids=torch.cat(parts, dim=1), **packed_row_arguments([4, 5, 9], CPU)).logits
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(alone, logits(build("llama"), torch.cat(parts, dim=1)), atol=1e-2)


def test_has_prepended_vectors(build):
    assert [prompt_learning.num_virtual_positions(config(kind, tokens=7)) for kind in (PREFIX, PROMPT, LLAMA)] == [
        7,
        7,
        0,
    ]
    found = [prompt_learning.has_prepended_vectors(adapted(build("llama"), kind)) for kind in (PREFIX, PROMPT, LLAMA)]
    assert found == [True, True, False]
    assert not prompt_learning.has_prepended_vectors(build("llama"))


@pytest.mark.parametrize("kind", [PREFIX, PROMPT, LLAMA])
def test_vectors_are_float32_on_a_half_precision_base(build, tmp_path, kind):
    model = adapted(build("llama").to(torch.bfloat16), kind)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(1e-4 * torch.rand_like(value))  # bfloat16 would lose it
    trained = [value for value in model.parameters() if value.requires_grad]
    assert {value.dtype for value in trained} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=IDS).logits.float().sum().backward()
        expected = logits(model)
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in trained[-1:])

    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    opened = opened_on(build("llama").to(torch.bfloat16), tmp_path)
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    found = {name: value for name, value in opened.named_parameters() if name in names}
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in found.items())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(opened), expected)


@pytest.mark.parametrize("kind", [PREFIX, PROMPT, LLAMA])
def test_virtual_tokens_train_on_a_quantized_base(saved, kind):
    base = load_model(
        ModelConfig(path=str(saved)), QuantConfig(kind=QuantKind.nf4), full=False, device=CPU,
        compute_dtype=torch.float32,
    )  # fmt: skip
    model = adapted(base, kind)
    model(input_ids=IDS).logits.sum().backward()
    grown = [value for value in model.parameters() if value.grad is not None and value.grad.abs().sum() > 0]
    assert grown
    assert all(value.requires_grad for value in grown)


SIZES = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("model_or_family", "adapter_config", "message"),
    [
        pytest.param(
            "qwen2",
            config(LLAMA),
            "adapter.kind=llama_adapter: it exists for gpt2, llama, mistral, but the model is a qwen2\n"
            "  fix: adapter=prefix, or adapter=lora",
            id="family",
        ),
        pytest.param(
            "llama",
            config(LLAMA, layers=3),
            "adapter.virtual.layers=3: the model has 2 layers\n"
            "  fix: adapter.virtual.layers=2, or remove it for all of them",
            id="layers",
        ),
        pytest.param(
            lambda: empty_model(MambaConfig(**SIZES), False),
            config(PROMPT),
            "adapter.kind=prompt: not every layer of a mamba has plain keys and values, which the vectors must"
            " precede\n  fix: adapter=lora",
            id="state-space",
        ),
        pytest.param(
            lambda: empty_model(DeepseekV3Config(**SIZES, num_attention_heads=4, num_key_value_heads=4), False),
            config(PREFIX),
            "adapter.kind=prefix: not every layer of a deepseek_v3 has plain keys and values, which the vectors"
            " must precede\n  fix: adapter=prompt, or adapter=lora",
            id="latent-attention",
        ),
        pytest.param(
            lambda: empty_model(
                Qwen3NextConfig(**SIZES, num_attention_heads=4, layer_types=["linear_attention", "full_attention"]),
                False,
            ),
            config(PREFIX),
            "adapter.kind=prefix: not every layer of a qwen3_next has plain keys and values, which the vectors"
            " must precede\n  fix: adapter=prompt, or adapter=lora",
            id="hybrid",
        ),
    ],
)
def test_unsupported_families_are_refused(build, model_or_family, adapter_config, message):
    base = build(model_or_family) if isinstance(model_or_family, str) else model_or_family()
    with pytest.raises(SftError) as caught:
        prompt_learning.virtual_tokens_config(base, adapter_config)
    assert str(caught.value) == message


def test_llama_adapter_refuses_other_head_widths(build):
    base = build("llama")
    base.config.head_dim = 16
    with pytest.raises(SftError) as caught:
        prompt_learning.virtual_tokens_config(base, config(LLAMA))
    assert caught.value.problem == "the 4 heads of width 16 do not add up to the hidden size 128, which PEFT requires"


def test_check_vectors_take_effect(build, monkeypatch):
    """For example if gradient checkpointing drops the cache with the prefix."""
    model = adapted(build("llama"), PREFIX)
    base = model.get_base_model()
    plain = base.forward
    monkeypatch.setattr(base, "forward", lambda *args, past_key_values=None, **rest: plain(*args, **rest))
    with pytest.raises(SftError) as caught:
        prompt_learning.check_vectors_take_effect(model)
    assert str(caught.value) == (
        "adapter.kind=prefix: the vectors never reach the layers of a llama\n  fix: adapter=prompt, or adapter=lora"
    )
